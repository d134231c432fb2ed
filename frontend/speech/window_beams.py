"""Search the likeliest text of a window among several beginnings."""

import math
from dataclasses import replace
from operator import attrgetter

from headrace.frontend.generation.beam_search import Beam, BeamSearch
from headrace.protocol.to_worker import Generate


class WindowBeamSearch(BeamSearch):
    """A beam search as Whisper's authors do it: it ends with as many ended texts as there are
    beams, and scores are means of outputs.

    Its beams are outputs, not prompts: rules of times and of first tokens are of these.
    """

    def _make_request(self, beam: Beam) -> Generate:
        message = super()._make_request(beam)
        sampling = replace(message.sampling, max_tokens=len(beam.token_ids) + 1)
        return replace(
            message,
            prompt_token_ids=self._request.prompt_token_ids,
            output_token_ids=beam.token_ids,
            sampling=sampling,
        )

    def _divisor(self, length: int) -> float:
        return math.pow(max(1, length), self._length_penalty)

    async def _search(self) -> list[Beam]:
        sampling = self._request.sampling
        ends = {*sampling.eos_token_ids, *sampling.stop_token_ids}
        beams, finished = [Beam()], list[Beam]()
        for _ in range(sampling.max_tokens):
            candidates = await self._extend(beams)
            beams = []
            for each in sorted(candidates, key=attrgetter("logprob_sum"), reverse=True):
                if each.token_id in ends:
                    finished.append(each.to_beam(ended=True))
                else:
                    beams.append(each.to_beam())
                if len(beams) == self._width:  # an end less likely than these is none
                    break
            if not beams or len(finished) >= self._width:
                break
        best = sorted(finished, key=self._score, reverse=True)
        return [*best, *sorted(beams, key=self._score, reverse=True)][: self._width]
