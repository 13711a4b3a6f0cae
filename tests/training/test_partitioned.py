"""What a stage does under DeepSpeed, as far as it can be seen without DeepSpeed, which needs a GPU."""

from types import SimpleNamespace

import pytest

from cprec_hf.errors import InputError
from cprec_hf.training import cpt, partitioned, trainer
from cprec_hf.training.partitioned import refuse_checkpoints, weights_are_partial
from training.runs import log_lines


def test_checkpoints_that_only_deepspeed_could_read_are_refused(tmp_path):
    def args(plugin, strategy):
        return SimpleNamespace(deepspeed_plugin=plugin, save_strategy=SimpleNamespace(value=strategy))

    refuse_checkpoints(args(None, "steps"), tmp_path)
    refuse_checkpoints(args("deepspeed", "no"), None)
    with pytest.raises(InputError, match="save_strategy: 'no'"):
        refuse_checkpoints(args("deepspeed", "steps"), None)
    with pytest.raises(InputError, match="cannot go on from"):
        refuse_checkpoints(args("deepspeed", "no"), tmp_path)


def test_who_may_not_hold_all_weights(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not weights_are_partial(SimpleNamespace(fsdp=None))
    assert weights_are_partial(SimpleNamespace(fsdp=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert weights_are_partial(SimpleNamespace(fsdp=None))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setattr(partitioned, "is_deepspeed_zero3_enabled", lambda: True)
    assert weights_are_partial(SimpleNamespace(fsdp=None))


def test_under_zero3_no_weight_is_read_from_outside_and_the_loss_is_the_same(flags, capsys, monkeypatch):
    """ZeRO-3 pretended: the model is not tried before training, and TRL's loss trains what ours does."""
    usual = [line["loss"] for line in log_lines(cpt.main(flags("usual")))]
    for module in (partitioned, trainer):
        monkeypatch.setattr(module, "is_deepspeed_zero3_enabled", lambda: True)

    def touched(*args, **kwargs):
        raise AssertionError("a weight was read that this process may not hold")

    monkeypatch.setattr(trainer, "refuse_leaks", touched)
    monkeypatch.setattr(trainer, "has_plain_head", touched)
    capsys.readouterr()
    losses = [line["loss"] for line in log_lines(cpt.main(flags("zero3")))]
    assert "kernels: TRL's own loss" in capsys.readouterr().out
    assert losses == pytest.approx(usual, rel=1e-4)
    with pytest.raises(InputError, match="divided over processes"):
        cpt.main(flags("torch", loss_head="torch"))
