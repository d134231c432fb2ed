"""Search the likeliest text of a window among several beginnings."""

from collections.abc import Sequence
from dataclasses import replace

from headrace.frontend.generation.beam_search import Beam, BeamSearch
from headrace.protocol.to_worker import Generate


class WindowBeamSearch(BeamSearch):
    """A beam search whose beams are outputs: rules of times and of first tokens are of these."""

    def _make_request(self, beam: Beam) -> Generate:
        message = super()._make_request(beam)
        sampling = replace(message.sampling, max_tokens=len(beam.token_ids) + 1)
        return replace(
            message,
            prompt_token_ids=self._request.prompt_token_ids,
            output_token_ids=beam.token_ids,
            sampling=sampling,
        )

    def _is_settled(self, finished: Sequence[Beam], beams: Sequence[Beam], length: int) -> bool:
        """Return whether as many beams are finished as the search is wide.

        So Whisper's authors do it (Radford et al., 2022). What might be likelier by its length
        alone is a loop, up to the last position.
        """
        return len(finished) >= self._width
