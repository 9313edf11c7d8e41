"""What a GPU is told about precision while a model is made. It takes no GPU to tell it."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image  # noqa: E402

from trellis_pipeline.trellis2.exact import exact_sums  # noqa: E402
from trellis_pipeline.trellis2.pipeline import generate_from_square  # noqa: E402
from trellis_pipeline.trellis2.stages import Normalization  # noqa: E402

CUDA = torch.device("cuda")


MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEW = hasattr(MATMUL, "fp32_precision")  # since PyTorch 2.9; set once, the older names may refuse to answer


def switches() -> tuple[object, ...]:
    tf32 = (MATMUL.fp32_precision, CUDNN.conv.fp32_precision) if NEW else ()
    return *tf32, MATMUL.allow_fp16_reduced_precision_reduction, MATMUL.allow_bf16_reduced_precision_reduction


def exact() -> bool:
    return set(switches()) <= {False, "ieee"} and not MATMUL.allow_tf32 and not CUDNN.allow_tf32


@pytest.fixture(params=["older names", "newer names"])
def anything_goes(request):
    """A process in which everything that saves time was allowed, by one set of names or the other."""
    if request.param == "newer names" and not NEW:
        pytest.skip("this PyTorch has no newer names")
    older = MATMUL.allow_tf32, CUDNN.allow_tf32
    newer = (MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision) if NEW else ()
    if request.param == "older names":
        MATMUL.allow_tf32 = CUDNN.allow_tf32 = True
    else:
        MATMUL.fp32_precision = CUDNN.conv.fp32_precision = "tf32"
        CUDNN.rnn.fp32_precision = "ieee"
        with pytest.raises(RuntimeError):
            assert MATMUL.allow_tf32 is None
    yield switches()
    MATMUL.allow_tf32, CUDNN.allow_tf32 = older
    if NEW:
        MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision = newer


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
