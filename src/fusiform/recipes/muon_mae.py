"""The recipe of our own: masked autoencoding, moved by Muon, its embedding whitened (docs/attribution.md says why)."""

from __future__ import annotations

from dataclasses import replace

from fusiform.recipes import mae_face

MUON = 6.0
"""Of 1, 3, 6 and 12 times the learning rate the best on people chosen for choosing."""

MUON_MAE = replace(
    mae_face.MAE_FACE,
    name="muon-mae",
    about="Masked autoencoding moved by Muon, its embedding whitened: 200 epochs, batch 1024 (not run at this size).",
    vit=replace(mae_face.MAE_FACE.vit, whitened=True),
    optim=replace(mae_face.MAE_FACE.optim, muon=MUON),
)

QUICK_WIDTH = 96
"""Half of the five methods' quick recipes: at minutes of compute, three times the faces are worth more than four times
the weights."""

QUICK = replace(
    mae_face.QUICK,
    name="muon-mae-quick",
    about="The same with a small ViT at 64 pixels: the best of our recipes on two CPU cores in minutes.",
    vit=replace(mae_face.QUICK.vit, width=QUICK_WIDTH, whitened=True),
    optim=replace(mae_face.QUICK.optim, epochs=46, muon=MUON),
)

DEMO = replace(QUICK, name="demo", about="What `make demo` trains.")
