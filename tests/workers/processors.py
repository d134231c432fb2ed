"""What the processor that tests run on can do, and marks for tests of what some cannot."""

import pytest
import torch

from headrace.protocol.config import CpuKernels, Dtype
from headrace.workers.linear.products import can_pack, make_product
from headrace.workers.native.library import choose_kernels, unsupported_reason, usable_kernels

# A dtype that torch's packed products take here: it is bfloat16 that models come in.
PACKED: Dtype = "bfloat16" if can_pack(torch.bfloat16) else "float32"


# The kernels that run here, the fastest first: for the parameters of fixtures that outlast a test,
# which choose them by `use_kernels`. If there are none, what is chosen skips the tests.
KERNELS: list[CpuKernels] = [*usable_kernels()] or ["native"]


def use_kernels(kernels: CpuKernels, dtype: torch.dtype = torch.float32) -> None:
    """Choose kernels until a test ends; skip the test if they cannot run a model of this dtype."""
    choose_kernels(kernels)
    reason = unsupported_reason(dtype)
    if reason and kernels != "torch":
        pytest.skip(reason)


def why_not_int8() -> str:
    """Return why torch's operations cannot run 8-bit weights here; empty if they can.

    They are wrong where ONEDNN_MAX_CPU_ISA limits oneDNN below what torch sees of the processor.
    """
    weight = torch.randn((64, 256), generator=torch.Generator().manual_seed(0))
    try:
        make_product(weight, None, "int8")
    except ValueError as error:
        return str(error)
    return ""


needs_kernels = pytest.mark.skipif(
    bool(unsupported_reason(torch.float32)),
    reason=f"no compiled kernels: {unsupported_reason(torch.float32)}",
)
# Runs a test on the kernels for each instruction set that this processor has, or on all of them but
# the fastest, on which all tests run.
on_each_set = pytest.mark.parametrize("kernel_set", usable_kernels(), indirect=True)
on_slower_sets = pytest.mark.parametrize("kernel_set", usable_kernels()[1:], indirect=True)
needs_int8 = pytest.mark.skipif(bool(why_not_int8()), reason=why_not_int8())
