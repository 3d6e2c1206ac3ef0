"""Encoders that others published: where each file is, whose it is, and on which terms. No torch.

Only what could be read in public text stands here, and `seen` says where. Hashes are rare, because hardly anybody
publishes them: a file without one is recorded when it is fetched first and compared with that from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fusiform.errors import ConfigError, did_you_mean

Seen = Literal["authors", "others", "not checked"]
"""Where the address was read: in the authors' own text, in code of others that uses it, or nowhere but in memory."""


@dataclass(frozen=True)
class Official:
    """One published file."""

    id: str
    family: str
    """Name in `fusiform.weights.importing.SOURCES`."""
    filename: str
    architecture: str
    page: str
    """Where a person reads about it, and finds it where there is no address."""
    licence: str
    commercial: Literal["yes", "no", "unknown"]
    """Whether the weights' licence allows commercial use. The photos that they were trained on have rights besides."""
    trained_on: str
    address: str | None = None
    """Of exactly this file; None: it is fetched by hand from `page`."""
    seen: Seen = "others"
    megabytes: float | None = None
    """About; None: not known."""
    bytes: int | None = None
    """Exactly, where known."""
    sha256: str | None = None
    beside: str | None = None
    """Address of a small text that belongs to it: pixel statistics."""
    note: str = ""

    @property
    def at_most(self) -> int:
        """Bytes after which a download is not this file."""
        return self.bytes or round((self.megabytes * 1.3 if self.megabytes else 8000) * 1e6)

    @property
    def free(self) -> bool:
        """Whether it may be fetched without saying that its terms were read."""
        return self.commercial == "yes"


_NC = "CC-BY-NC 4.0"
_IMAGENET = "ImageNet-1k, 1.3 M photos"
_META = "https://dl.fbaipublicfiles.com/"
_LVD = "LVD-142M, photos from the web that are not published"
_VF2 = "VGGFace2, 3 M photos of 9 k people from the web; the set was withdrawn"
_LAION = "LAION-Face, 20 M photos of people with their captions from the web"


def _mae(size: str, architecture: str, megabytes: float) -> Official:
    return Official(
        f"mae-{size}",
        "mae",
        f"mae_pretrain_vit_{size}.pth",
        architecture,
        "https://github.com/facebookresearch/mae",
        _NC,
        "no",
        _IMAGENET,
        f"{_META}mae/pretrain/mae_pretrain_vit_{size}.pth",
        "authors",
        megabytes,
    )


def _farl(epochs: int) -> Official:
    name = f"FaRL-Base-Patch16-LAIONFace20M-ep{epochs}.pth"
    return Official(
        f"farl-ep{epochs}",
        "farl",
        name,
        "ViT-B/16, 224 pixels",
        "https://github.com/FacePerceiver/FaRL",
        "MIT",
        "yes",
        _LAION,
        f"https://github.com/FacePerceiver/FaRL/releases/download/pretrained_weights/{name}",
        megabytes=652,
        note=f"{epochs} epochs" + (", the one in the paper" if epochs == 16 else ""),
    )


def _moco(size: str, architecture: str) -> Official:
    return Official(
        f"moco-v3-{size}",
        "moco-v3",
        f"vit-{size[0]}-300ep.pth.tar",
        architecture,
        "https://github.com/facebookresearch/moco-v3/blob/main/CONFIG.md",
        _NC,
        "no",
        _IMAGENET,
        f"{_META}moco-v3/vit-{size[0]}-300ep/vit-{size[0]}-300ep.pth.tar",
        note="the base one is the frozen network of MCF" if size == "base" else "",
    )


def _dino(id: str, folder: str, architecture: str, megabytes: float) -> Official:
    return Official(
        id,
        "dino",
        f"{folder}.pth",
        architecture,
        "https://github.com/facebookresearch/dino",
        "Apache-2.0",
        "yes",
        _IMAGENET,
        f"{_META}dino/{folder}/{folder}.pth",
        megabytes=megabytes,
    )


def _dinov2(letter: str, size: str, megabytes: float, *, registers: bool) -> Official:
    name = f"dinov2_vit{letter}14{'_reg4' if registers else ''}_pretrain.pth"
    return Official(
        f"dinov2-{size}{'-registers' if registers else ''}",
        "dinov2",
        name,
        f"ViT-{letter.upper()}/14, 518 pixels{', 4 registers' if registers else ''}",
        "https://github.com/facebookresearch/dinov2",
        "Apache-2.0",
        "yes",
        _LVD,
        f"{_META}dinov2/dinov2_vit{letter}14/{name}",
        "authors",
        megabytes,
    )


def _fsfm(id: str, folder: str, file: str, architecture: str, **known: object) -> Official:
    place = f"https://huggingface.co/Wolowolo/fsfm-3c/resolve/main/pretrained_models/{folder}/"
    return Official(
        id,
        "fsfm",
        file,
        architecture,
        "https://huggingface.co/Wolowolo/fsfm-3c",
        _NC,
        "no",
        "FaceForensics++'s real videos" if folder.startswith("FF++") else _VF2,
        place.replace("+", "%2B") + file,
        beside=place.replace("+", "%2B") + "pretrain_ds_mean_std.txt",
        **known,  # type: ignore[arg-type]
    )


_BY_HAND = (
    Official(
        "mae-face",
        "mae-face",
        "mae_face_pretrain_vit_base.pth",
        "ViT-B/16, 224 pixels",
        "https://github.com/FuxiVirtualHuman/MAE-Face/releases",
        "MIT as stated by its authors; its code follows MAE's, which is CC-BY-NC 4.0",
        "unknown",
        "faces of several public sets, about two million, not listed by the release",
        seen="authors",
        note="others report 343 to 1,300 MB; MAE's own file is handed round under this name",
    ),
    Official(
        "mcf",
        "mcf",
        "mcf.pth",
        "ViT-B/16, 224 pixels",
        "https://github.com/nomewang/MCF",
        "none stated",
        "unknown",
        "LAION-FACE-cropped, 20 M faces cut from LAION-Face",
        seen="authors",
        note="on Google Drive, linked from the page; the file may have another name",
    ),
    Official(
        "part-fvit",
        "lafs",
        "Backbone_VIT_land_8.pth",
        "Part-fViT-B/8, 112 pixels, 196 landmarks",
        "https://github.com/szlbiubiubiu/LAFS_CVPR2024",
        "MIT as stated by its authors, without a licence file",
        "unknown",
        "MS1MV3, 5 M photos of 93 k people descended from MS-Celeb-1M, which was withdrawn",
        seen="authors",
        note="stage 1 of LAFS, with its landmark network; on Google Drive, linked from the page",
    ),
    Official(
        "siameseim",
        "siameseim",
        "sim_base_1600ep_pretrain.pth",
        "ViT-B/16, 224 pixels",
        "https://github.com/fundamentalvision/Siamese-Image-Modeling",
        _NC,
        "no",
        _IMAGENET,
        seen="others",
        note="CAMD's parent; CAMD itself has published no weights",
    ),
)

OFFICIAL: dict[str, Official] = {
    official.id: official
    for official in (
        _farl(16),
        _farl(64),
        _fsfm("fsfm-base", "VF2_ViT-B", "checkpoint-400.pth", "ViT-B/16, 224 pixels, online network"),
        _fsfm("fsfm-base-target", "VF2_ViT-B", "checkpoint-te-400.pth", "ViT-B/16, 224 pixels, target network"),
        _fsfm("fsfm-base-ff", "FF++_o_c23_ViT-B", "checkpoint-400.pth", "ViT-B/16, 224 pixels, online network"),
        _fsfm("fs-vfm-small", "FS-VFM_ViT-S_VF2_600e", "checkpoint-599.pth", "ViT-S/16, 224 pixels, online network"),
        _fsfm("fs-vfm-base", "FS-VFM_ViT-B_VF2_600e", "checkpoint-600.pth", "ViT-B/16, 224 pixels, online network"),
        _fsfm(
            "fs-vfm-large",
            "FS-VFM_ViT-L_VF2_600e",
            "checkpoint-599.pth",
            "ViT-L/16, 224 pixels, online network",
            megabytes=4369.3,
            bytes=4_369_346_513,
            sha256="3fd99324c998ee06e4daa7f9d845e73f65f1628dee741b2c98664d566526bc87",
            note="size and hash as measured and written down by one user of it",
        ),
        _mae("base", "ViT-B/16, 224 pixels", 343),
        _mae("large", "ViT-L/16, 224 pixels", 1217),
        _mae("huge", "ViT-H/14, 224 pixels", 2528),
        _moco("small", "ViT-S/16, 224 pixels, 12 heads"),
        _moco("base", "ViT-B/16, 224 pixels"),
        _dino("dino-small", "dino_deitsmall16_pretrain", "ViT-S/16, 224 pixels", 87),
        _dino("dino-base", "dino_vitbase16_pretrain", "ViT-B/16, 224 pixels", 343),
        _dinov2("s", "small", 88, registers=False),
        _dinov2("b", "base", 346, registers=False),
        _dinov2("l", "large", 1218, registers=False),
        _dinov2("g", "giant", 4546, registers=False),
        _dinov2("s", "small", 88, registers=True),
        _dinov2("b", "base", 346, registers=True),
        _dinov2("l", "large", 1218, registers=True),
        _dinov2("g", "giant", 4546, registers=True),
        Official(
            "clip-base",
            "clip",
            "pytorch_model.bin",
            "ViT-B/16, 224 pixels",
            "https://huggingface.co/openai/clip-vit-base-patch16",
            "MIT",
            "yes",
            "400 M pictures with captions from the web, not published",
            "https://huggingface.co/openai/clip-vit-base-patch16/resolve/main/pytorch_model.bin",
            "not checked",
            599,
        ),
        Official(
            "timm-base-augreg",
            "timm-vit-half",
            "model.safetensors",
            "ViT-B/16, 224 pixels",
            "https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
            "Apache-2.0",
            "yes",
            "ImageNet-21k, then ImageNet-1k, with labels",
            "https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
            "not checked",
            346,
        ),
        *_BY_HAND,
    )
}
"""Every published encoder file, by id."""


def find(name: str, others: Iterable[str] = ()) -> Official:
    """The file of that id.

    Args:
        others: further ids that the user may have meant.

    Raises:
        ConfigError: there is none; says which id is nearest.
    """
    try:
        return OFFICIAL[name]
    except KeyError:
        raise ConfigError(f"There are no weights '{name}'", do=did_you_mean(name, [*OFFICIAL, *others])) from None
