"""What the command line says to somebody who mistypes."""

from __future__ import annotations

import pytest

from fusiform.cli import VERBS, main


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian"], "Did you mean 'pretrain'?"),
        (["pretrain", "mae-fase-quick"], "Did you mean 'mae-face-quick'?"),
        (["pretrain", "--out", "x"], "needs a recipe as its first word"),
        (["show", "nowhere.at_all:RECIPE"], "cannot be imported"),
        (["weights", "fetch", "yunet_s_dynamik"], "Did you mean 'yunet_s_dynamic'?"),
        (["shards", "verfy"], "Did you mean 'verify'?"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_mistyped_flag_gets_the_nearest_right_one(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "mae-face-quick", "--faces", "set", "--out", "run", "--optim.lr-per-25", "1"])
    assert stop.value.code == 2
    assert "--optim.lr-per-256" in capsys.readouterr().err


def test_show_prints_cost_and_parameters(capsys):
    assert main(["show", "mae-face-as-released"]) == 0
    printed = capsys.readouterr().out
    assert "111,907,840" in printed  # the published model with its decoder (111.9 M)
    assert "85,798,656" in printed or "85,8" in printed


def test_a_set_that_is_not_there_is_an_error_with_an_exit_code(tmp_path, capsys):
    words = ["pretrain", "mae-face-quick", "--faces", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert main(words) == 4
    assert "none" in capsys.readouterr().err
