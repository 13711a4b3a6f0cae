import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
import transformers
import trl
from hypothesis import given
from hypothesis import strategies as st
from transformers.trainer_utils import SchedulerType

from cprec_hf.errors import InputError
from cprec_hf.training import get_wsa_schedule, wsa_phases

PEAK = 0.02


@st.composite
def runs(draw):
    """Warmup, stable and anneal steps of a run."""
    return draw(st.integers(0, 30)), draw(st.integers(1, 30)), draw(st.integers(0, 30))


def rates(scheduler, steps):
    """The learning rate of each optimizer step."""
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def closed_form(step, warmup, stable, anneal, shape, floor, half_life=None):
    """Written once more, from the definition: straight line up, flat, a fall that ends one step after the run."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    p = (step - (warmup + stable) + 1) / (anneal + 1)
    if p <= 0 or anneal == 0:
        return 1.0
    if half_life is not None:
        return max(floor, math.exp(-math.log(2) * p * (anneal + 1) / half_life))
    if shape == "exponential":
        return math.exp(p * math.log(floor))
    if shape == "inverse-proportional":  # the reciprocal of the rate climbs a straight line
        return 1 / (1 + p * (1 / floor - 1))
    top = {"linear": 1 - p, "cosine": (1 + math.cos(math.pi * p)) / 2, "1-sqrt": 1 - p**0.5}[shape]
    return floor + (1 - floor) * top


SHAPES = ["linear", "cosine", "1-sqrt", "exponential", "inverse-proportional"]


@given(runs(), st.sampled_from(SHAPES), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_the_schedule_is_its_closed_form(run, shape, floor):
    warmup, stable, anneal = run
    total = warmup + stable + anneal
    schedule = get_wsa_schedule(
        optimizer(), warmup, total, num_anneal_steps=anneal, anneal_shape=shape, min_lr_ratio=floor
    )
    got = rates(schedule, total)
    assert got == pytest.approx([PEAK * closed_form(s, warmup, stable, anneal, shape, floor) for s in range(total)])
    assert got[0] > 0
    assert max(got) == pytest.approx(PEAK)
    assert min(got[warmup:]) >= floor * PEAK * (1 - 1e-9)


@given(runs(), st.one_of(st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.9])), st.sampled_from([0.0, 0.1, 0.6]))
def test_an_exponential_anneal_halves_every_half_life(run, half_life, floor):
    warmup, stable, anneal = run
    total = warmup + stable + anneal
    schedule = get_wsa_schedule(
        optimizer(), warmup, total, num_anneal_steps=anneal, anneal_shape="exponential", half_life_steps=half_life,
        min_lr_ratio=floor,
    )  # fmt: skip
    steps = half_life if half_life >= 1 else half_life * anneal
    got = rates(schedule, total)
    assert got == pytest.approx(
        [PEAK * closed_form(s, warmup, stable, anneal, "exponential", floor, steps) for s in range(total)]
    )
    falling = got[warmup + stable :]
    if isinstance(half_life, int):
        for early, late in zip(falling, falling[half_life:], strict=False):
            assert late == pytest.approx(max(early / 2, floor * PEAK))


@given(runs().filter(lambda run: run[2]), st.sampled_from([0.01, 0.1, 0.5]))
def test_the_half_life_that_ends_at_the_floor_is_the_one_without_a_half_life(run, floor):
    warmup, _, anneal = run
    options = {"num_anneal_steps": anneal, "anneal_shape": "exponential", "min_lr_ratio": floor}
    half_life = (anneal + 1) * math.log(2) / math.log(1 / floor)
    if half_life < 1:  # which would be read as a share
        half_life /= anneal
    whole = wsa_phases(warmup, sum(run), **options)
    halving = wsa_phases(warmup, sum(run), **options, half_life_steps=half_life)
    for step in range(sum(run) + 3):  # past the end, too, where both stay at the floor
        assert halving.factor(step) == pytest.approx(whole.factor(step))


@given(runs(), st.sampled_from(["linear", "cosine", "1-sqrt"]), st.sampled_from([0.0, 0.1]))
def test_it_is_transformers_curve_without_the_steps_that_learn_nothing(run, shape, floor):
    """warmup_stable_decay starts at 0 (or its floor); one step later, with the outer points added, it is our curve."""
    warmup, stable, anneal = run
    theirs = transformers.get_wsd_schedule(
        optimizer(), warmup + 1, anneal + 1, num_stable_steps=stable - 1, decay_type=shape, min_lr_ratio=floor
    )
    total = warmup + stable + anneal
    ours = get_wsa_schedule(optimizer(), warmup, total, num_anneal_steps=anneal, anneal_shape=shape, min_lr_ratio=floor)
    ours, theirs = rates(ours, total), rates(theirs, total + 1)[1:]
    if not anneal:
        theirs = [*theirs[: warmup + stable - 1], PEAK]  # theirs cannot end in its stable phase with a decay of 0 steps
    assert ours[warmup:] == pytest.approx(theirs[warmup:], abs=1e-12)
    if floor == 0:  # theirs also warms up from the floor
        assert ours == pytest.approx(theirs, abs=1e-12)


@given(st.integers(2, 300), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.sampled_from(["linear", "cosine", "1-sqrt"]))
def test_by_ratio_and_by_name_it_is_transformers_curve(total, warmup, anneal, shape):
    up, down = math.ceil(total * warmup), math.ceil(total * anneal)
    if up + down >= total:  # theirs needs a step more of the stable phase than a run without one has
        return
    ours = transformers.get_scheduler(
        "wsa", optimizer(), num_warmup_steps=warmup, num_training_steps=total,
        scheduler_specific_kwargs={"anneal_ratio": anneal, "anneal_shape": shape},
    )  # fmt: skip
    theirs = transformers.get_scheduler(
        "warmup_stable_decay", optimizer(), num_warmup_steps=up + 1, num_training_steps=total + 1,
        scheduler_specific_kwargs={"num_decay_steps": down + 1, "decay_type": shape},
    )  # fmt: skip
    assert rates(ours, total) == pytest.approx(rates(theirs, total + 1)[1:], abs=1e-12)


@given(st.integers(1, 500), st.floats(0, 0.5), st.floats(0, 0.5))
def test_phases_by_ratio_fill_the_run(total, warmup, anneal):
    if math.ceil(total * warmup) + math.ceil(total * anneal) > total:
        with pytest.raises(InputError, match=f"do not fit in a run of {total} steps"):
            wsa_phases(warmup, total, anneal_ratio=anneal)
        return
    phases = wsa_phases(warmup, total, anneal_ratio=anneal)
    assert phases.warmup + phases.stable + phases.anneal == total
    assert (phases.warmup, phases.anneal) == (math.ceil(total * warmup), math.ceil(total * anneal))
    names = [phases.name(step) for step in range(total)]
    assert names == ["warmup"] * phases.warmup + ["stable"] * phases.stable + ["anneal"] * phases.anneal


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((60, 100), {"num_anneal_steps": 50}, "60 warmup + 50 anneal steps = 110 do not fit in a run of 100 steps"),
        ((-1, 100), {}, "warmup_steps is -1"),
        ((1.5, 100), {}, "warmup_steps is 1.5"),
        ((0, 0), {}, "a run of 0 steps"),
        ((0, 10), {"anneal_ratio": 1.5}, "anneal_ratio is 1.5"),
        ((0, 10), {"min_lr_ratio": -0.1}, "min_lr_ratio is -0.1"),
        (
            (0, 10),
            {"anneal_shape": "sqrt"},
            "anneal_shape is 'sqrt'; choose one of linear, cosine, 1-sqrt, exponential, inverse-proportional",
        ),
        ((0, 10), {"anneal_shape": "exponential"}, "set min_lr_ratio or half_life_steps"),
        ((0, 10), {"anneal_shape": "inverse-proportional"}, "never reaches a floor of 0; set min_lr_ratio, for"),
        ((0, 10), {"half_life_steps": 3}, "half_life_steps is 3, and an anneal of shape 1-sqrt has no half-life"),
        ((0, 10), {"anneal_shape": "exponential", "half_life_steps": 0}, "half_life_steps is 0; it is a number of"),
        ((0, 10), {"num_anneal_steps": 5, "anneal_ratio": 0.2}, "num_anneal_steps is 5 and anneal_ratio is 0.2"),
    ],
)
def test_impossible_phases_say_the_numbers(arguments, options, said):
    with pytest.raises(InputError) as error:
        wsa_phases(*arguments, **options)
    assert said in str(error.value)


def test_resuming_takes_the_new_phases():
    """A trunk's saved scheduler, loaded into a longer run with an anneal, follows the new run."""
    trunk = get_wsa_schedule(optimizer(), 2, 6, num_anneal_steps=0)
    rates(trunk, 6)
    state = pickle.loads(pickle.dumps(trunk.state_dict()))
    whole = get_wsa_schedule(optimizer(), 2, 10, num_anneal_steps=4)
    branch = get_wsa_schedule(optimizer(), 2, 10, num_anneal_steps=4)
    branch.load_state_dict(state)
    expected = rates(whole, 10)[6:]
    branch.step()
    assert [expected[1], *expected[2:]] == pytest.approx(rates(branch, 3))


def test_get_scheduler_knows_the_name():
    schedule = transformers.get_scheduler(
        "wsa", optimizer(), num_warmup_steps=2, num_training_steps=10, scheduler_specific_kwargs={"anneal_ratio": 0.4}
    )
    assert rates(schedule, 10) == pytest.approx(rates(get_wsa_schedule(optimizer(), 2, 10, num_anneal_steps=4), 10))
    with pytest.raises(ValueError, match="num_training_steps"):
        transformers.get_scheduler("wsa", optimizer(), num_warmup_steps=2)


def test_the_name_is_a_true_member():
    member = SchedulerType("wsa")
    assert member is SchedulerType.WSA is SchedulerType["WSA"]
    assert member in list(SchedulerType)
    assert (member.name, member.value, member == "wsa") == ("WSA", "wsa", True)
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    with pytest.raises(ValueError, match="wsb"):
        SchedulerType("wsb")


def test_stock_configs_and_the_parser_take_the_name(tmp_path):
    config = trl.SFTConfig(
        str(tmp_path), lr_scheduler_type="wsa", lr_scheduler_kwargs={"anneal_ratio": 0.5}, bf16=False
    )
    assert copy.deepcopy(config).lr_scheduler_type is SchedulerType.WSA
    assert pickle.loads(pickle.dumps(config)).lr_scheduler_type is SchedulerType.WSA
    assert config.to_dict()["lr_scheduler_type"] == "wsa"
    (tmp_path / "a.yaml").write_text(
        "output_dir: out\nlr_scheduler_type: wsa\nlr_scheduler_kwargs: {anneal_ratio: 0.5}"
    )
    for argv in (
        ["--config", str(tmp_path / "a.yaml"), "--bf16", "false"],
        [
            "--output_dir",
            "out",
            "--lr_scheduler_type",
            "wsa",
            "--lr_scheduler_kwargs",
            '{"anneal_ratio": 0.5}',
            "--bf16",
            "0",
        ],
    ):
        (parsed,) = trl.TrlParser([trl.SFTConfig]).parse_args_and_config(argv)
        assert parsed.lr_scheduler_type is SchedulerType.WSA
        assert parsed.lr_scheduler_kwargs == {"anneal_ratio": 0.5}


def test_a_pickled_config_comes_back_in_a_process_that_imports_the_package(tmp_path):
    config = trl.SFTConfig(str(tmp_path), lr_scheduler_type="wsa", bf16=False)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config.lr_scheduler_type))
    code = f"import cprec_hf.training, pickle; print(pickle.load(open({str(tmp_path / 'config.pickle')!r}, 'rb')).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "WSA"


def test_a_stock_trainer_trains_with_it(tmp_path, tiny_model, byte_level_tokenizer):
    from datasets import Dataset

    config = trl.SFTConfig(
        str(tmp_path), lr_scheduler_type="wsa", lr_scheduler_kwargs={"anneal_ratio": 0.5, "anneal_shape": "linear"},
        warmup_steps=1, max_steps=4, learning_rate=PEAK, logging_steps=1, use_cpu=True, bf16=False,
        activation_checkpointing=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"text": ["red paper\n", "blue folder\n"] * 8})
    trainer = trl.SFTTrainer(
        tiny_model(byte_level_tokenizer),
        config,
        train_dataset=rows,
        processing_class=copy.deepcopy(byte_level_tokenizer),
    )
    trainer.train()
    logged = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx([PEAK / 2, PEAK, PEAK * 2 / 3, PEAK / 3])
