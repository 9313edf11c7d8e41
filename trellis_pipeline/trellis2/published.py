"""What is published: every file that inference needs, its size, its hash, its licence and who may have it.

Weights are gigabytes from other people's servers. So what a file must be is written down here, for exactly
one revision of each repository, and whoever fetches or checks weights compares with it. Needs no torch.

Sizes and hashes are those that the hub states for these revisions. RMBG-2.0, the matte of the original
pipeline, is not among them: its licence allows no commercial use.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Resolution = Literal["512", "1024", "1536"]
RESOLUTIONS: tuple[Resolution, ...] = ("512", "1024", "1536")

MAIN_REPOSITORY = "microsoft/TRELLIS.2-4B"
STRUCTURE_REPOSITORY = "microsoft/TRELLIS-image-large"
ENCODER_REPOSITORY = "facebook/dinov3-vitl16-pretrain-lvd1689m"
MATTE_REPOSITORY = "onnx-community/BiRefNet-ONNX"

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class PublishedRepository:
    """A repository at one revision. gated: its owner lets people in one by one.

    what: the part it plays, for people. licence: of the weights. licence_page: where it can be read.
    """

    name: str
    revision: str
    what: str
    licence: str
    licence_page: str
    gated: bool = False

    @property
    def page(self) -> str:
        """Where a gated repository is asked for, and where people look it up."""
        return f"{HUB}/{self.name}"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file. path: in its repository. sha256: lower-case hex. resolutions: what cannot be made without."""

    repository: str
    path: str
    file_bytes: int
    sha256: str
    resolutions: tuple[Resolution, ...] = RESOLUTIONS

    @property
    def place(self) -> str:
        """Where it lies below the weights folder, with slashes: the repository's name, then its path."""
        return f"{self.repository}/{self.path}"


REPOSITORIES = {
    repository.name: repository
    for repository in (
        PublishedRepository(
            MAIN_REPOSITORY,
            "af44b45f2e35a493886929c6d786e563ec68364d",
            "flows and decoders",
            "MIT",
            f"{HUB}/{MAIN_REPOSITORY}",
        ),
        PublishedRepository(
            STRUCTURE_REPOSITORY,
            "25e0d31ffbebe4b5a97464dd851910efc3002d96",
            "structure decoder",
            "MIT",
            f"{HUB}/{STRUCTURE_REPOSITORY}",
        ),
        PublishedRepository(
            ENCODER_REPOSITORY,
            "ea8dc2863c51be0a264bab82070e3e8836b02d51",
            "image encoder",
            "DINOv3 License",
            "https://ai.meta.com/resources/models-and-libraries/dinov3-license",
            gated=True,
        ),
        PublishedRepository(
            MATTE_REPOSITORY,
            "534d3c82d3bb8b2f0867db6dfbc3a525b8e42f67",
            "matte, optional",
            "MIT",
            "https://github.com/ZhengPeng7/BiRefNet/blob/main/LICENSE",
        ),
    )
}

_ONLY_512: tuple[Resolution, ...] = ("512",)
_CASCADES: tuple[Resolution, ...] = ("1024", "1536")


def _network(
    name: str,
    json_bytes: int,
    json_sha256: str,
    file_bytes: int,
    sha256: str,
    *,
    repository: str = MAIN_REPOSITORY,
    resolutions: tuple[Resolution, ...] = RESOLUTIONS,
) -> tuple[PublishedFile, PublishedFile]:
    """A network's description, which is always needed, and its weights."""
    return (
        PublishedFile(repository, f"ckpts/{name}.json", json_bytes, json_sha256),
        PublishedFile(repository, f"ckpts/{name}.safetensors", file_bytes, sha256, resolutions),
    )


MODEL_FILES: tuple[PublishedFile, ...] = (
    PublishedFile(
        MAIN_REPOSITORY,
        "pipeline.json",
        4_186,
        "222c359ab1ed9bc6735a640a34f95d47f8681b9bc4aaa101bfb80274676253c6",
    ),
    *_network(
        "ss_flow_img_dit_1_3B_64_bf16",
        467,
        "6cdfb636854f60ffcadd8c49244169cd449f34c5ccdb55b5ff7c04678f9c399e",
        2_584_426_920,
        "ca01377c485bec418076d38ee80166d32dc776d744f2553b835cba1e97a7abf6",
    ),
    *_network(
        "ss_dec_conv3d_16l8_fp16",
        245,
        "646781293f1cda74720de85d1cef50a957fb4aebd9a4bd014e454e32f2330ac5",
        147_591_972,
        "1c76d4a40519aa2d711cc263a8404105231ac26db31d946bed48b84fee79009a",
        repository=STRUCTURE_REPOSITORY,
    ),
    # The cascades begin with the small flow, so every resolution needs it.
    *_network(
        "slat_flow_img2shape_dit_1_3B_512_bf16",
        458,
        "ddbd7a1d34ce9a8e7af2f6ef9ae686d9ab49f69e62dacb98d8409b511cdbd5e2",
        2_584_574_424,
        "ec5e0917ef9b7e25ad51dffc7d19687a42019871f94239f2fa7f86264c55b70f",
    ),
    *_network(
        "slat_flow_img2shape_dit_1_3B_1024_bf16",
        458,
        "7ebd6d367393f52fee9e92c2b3d727a9026a338549c6a6fa84c7ea122140ffdd",
        2_584_574_424,
        "07cd0596f634c5adc1890023d16023afc5eed02fb84b22bb23aff5bf0030fbbd",
        resolutions=_CASCADES,
    ),
    *_network(
        "shape_dec_next_dc_f16c32_fp16",
        678,
        "5f1b856dffce79466fb18f5f0eefc08f08c673b24b3c05b20359c0b6d318a209",
        948_490_494,
        "e3b718d3e43e4f8780e9a24ac6fff231811a67e3b058e336e10fe654c911d581",
    ),
    *_network(
        "slat_flow_imgshape2tex_dit_1_3B_512_bf16",
        458,
        "3093796257a62f838d2e5578ac4580ca3b7d88d10b87d348065d3fdfcc4c2077",
        2_584_672_728,
        "8371aa1c5d13be79dcd5ddfd2cf3835e902e204dc34427169a1c702828e1a94d",
        resolutions=_ONLY_512,
    ),
    *_network(
        "slat_flow_imgshape2tex_dit_1_3B_1024_bf16",
        458,
        "31f4fdad9974930e5e9324ac9dfb6ef7de6b30cea51854ba515ef827a8d353b2",
        2_584_672_728,
        "580401269059a339b8318ab9ced459a13ba63391721c83a6c383198c29e77686",
        resolutions=_CASCADES,
    ),
    *_network(
        "tex_dec_next_dc_f16c32_fp16",
        705,
        "22074e4ab5b28e2b72d33a3fe61bf416134b89e12d0fc5c729f37da75da0c4d1",
        948_458_812,
        "97ea69addea2ecd9312910f5f548234665eef51c088386180b7cd5b258645e3c",
    ),
)

ENCODER_FILES = (
    PublishedFile(
        ENCODER_REPOSITORY,
        "config.json",
        745,
        "135ecd23e34a70b6fbed8b083fdecb319b7e3a54e3d849258bbe4ddcf1783bb5",
    ),
    PublishedFile(
        ENCODER_REPOSITORY,
        "model.safetensors",
        1_212_559_808,
        "dcb2e45127cccbf1601e5f42fef165eea275c8e5213197e8dcf3f48822718179",
    ),
)

# An export to ONNX of ZhengPeng7/BiRefNet, the network for general use. Not part of the generator.
MATTE_FILES = (
    PublishedFile(
        MATTE_REPOSITORY,
        "onnx/model.onnx",
        972_666_916,
        "58f621f00f5d756097615970a88a791584600dcf7c45b18a0a6267535a1ebd3c",
        (),
    ),
)

FILES = (*MODEL_FILES, *ENCODER_FILES, *MATTE_FILES)


def wanted_files(
    files: Collection[PublishedFile],
    *,
    resolution: Resolution | None = None,
    encoder: bool = True,
    matte: bool = False,
) -> tuple[PublishedFile, ...]:
    """The files of a table that somebody needs. The table is FILES, or a part of it.

    resolution: what only others need is left out; None takes the weights of all. encoder: whether the image
    encoder is among them. matte: whether BiRefNet is.
    """
    return tuple(
        file
        for file in files
        if (
            matte
            if file.repository == MATTE_REPOSITORY
            else resolution is None or resolution in file.resolutions
        )
        and (encoder or file.repository != ENCODER_REPOSITORY)
    )
