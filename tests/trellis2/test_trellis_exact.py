"""What a GPU is told about precision while a model is made. It takes no GPU to tell it."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image  # noqa: E402

from trellis_pipeline.trellis2.exact import exact_sums  # noqa: E402
from trellis_pipeline.trellis2.pipeline import generate_from_square  # noqa: E402
from trellis_pipeline.trellis2.stages import Normalization  # noqa: E402

CUDA = torch.device("cuda")


def switches() -> tuple[object, ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        tf32 = (matmul.fp32_precision, cudnn.conv.fp32_precision)
    else:
        tf32 = (matmul.allow_tf32, cudnn.allow_tf32)
    halves = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
    return *tf32, *halves


@pytest.fixture
def anything_goes():
    """A process in which everything that saves time was allowed."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    yield switches()
    matmul.allow_tf32, cudnn.allow_tf32 = before


def exact() -> bool:
    return set(switches()) <= {False, "ieee"}


def test_a_gpu_rounds_nothing_while_a_model_is_made_and_is_left_as_it_was(anything_goes):
    assert not exact()
    with exact_sums(CUDA):
        assert exact()
    assert switches() == anything_goes
    with exact_sums(torch.device("cpu")):
        assert switches() == anything_goes


class Asked(Exception):
    """The first network was asked for."""


class OnACard:
    """Networks as they would be on a GPU, up to the moment when the first is needed."""

    device = CUDA
    shape_normalization = material_normalization = Normalization((), ())

    def use(self, _name):
        raise Asked(exact())

    def shrink(self):
        return False


def test_a_generation_is_exact_from_its_first_network_on(anything_goes):
    square = Image.new("RGB", (64, 64), "white")
    with pytest.raises(Asked) as caught:
        generate_from_square(OnACard(), square, mode="512", seed=1)
    assert caught.value.args == (True,)
    assert switches() == anything_goes
