import errno
import hashlib
import os
import re
from datetime import date

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.errors import DataError
from schemas.publishing import draft, new_token, publish
from schemas.settings import TrainingSettings
from trainer.backbones import build
from trainer.checkpointing import Progress, ResumeState, copy_weights, load
from trainer.ranks import Ranks

DS = date(2017, 10, 31)
SETTINGS = TrainingSettings(width=8, max_length=4)
ITEMS = torch.tensor([[1, 2, 3]])


def publish_checkpoint(root, backbone):
    run = draft(root, CHECKPOINTS, DS, new_token())
    save_file(backbone.state_dict(), run.path / WEIGHTS_FILE)
    row = {
        "weights_sha256": hashlib.sha256((run.path / WEIGHTS_FILE).read_bytes()).hexdigest(),
        "backbone": SETTINGS.backbone,
        "loss": SETTINGS.loss,
        "settings": SETTINGS.model_dump_json(),
        "num_items": backbone.num_items,
        "trained_until": DS,
        "best_epoch": 1,
        "validation_ndcg_10": 0.5,
        "items_digest": "a",
        "sequences_digest": "b",
        "soft_targets_digest": "c",
    }
    run.write(pa.Table.from_pylist([row], schema=CHECKPOINTS.schema))
    return publish(run, DS)


def test_a_published_checkpoint_loads_as_the_model_that_was_trained(tmp_path):
    trained = build(SETTINGS, 6).eval()
    torch.nn.init.normal_(trained.item_bias)
    backbone, settings = load(publish_checkpoint(tmp_path, trained))
    assert settings == SETTINGS
    assert not backbone.training
    lengths = torch.tensor([3])
    assert torch.equal(backbone.score_next(ITEMS, lengths), trained.score_next(ITEMS, lengths))


def test_copied_weights_do_not_change_with_the_model():
    backbone = build(SETTINGS, 6)
    copied = copy_weights(backbone)
    torch.nn.init.ones_(backbone.item_bias)
    assert (copied["item_bias"] == 0).all()


@pytest.fixture
def resume(tmp_path):
    return ResumeState.of(tmp_path, "2017-10-31", "f1")


def trained_a_step(seed):
    """A backbone and its optimiser after one step, and the progress made."""
    backbone = build(SETTINGS.model_copy(update={"seed": seed}), 6)
    optimiser = torch.optim.AdamW(backbone.parameters(), fused=True)
    backbone.score(backbone(ITEMS)[:, -1])[:, 1:].square().sum().backward()
    optimiser.step()
    return backbone, optimiser


def test_a_resume_state_restores_weights_optimiser_generator_and_progress(resume):
    backbone, optimiser = trained_a_step(seed=1)
    progress = Progress(
        epoch=2,
        batch=5,
        sums={"train_loss": 1.5},
        epochs=[{"train_loss": 3.0}],
        best_epoch=1,
        best_weights=copy_weights(backbone),
    )
    torch.manual_seed(7)
    resume.save(progress, backbone, optimiser)
    expected = torch.rand(3)

    other, other_optimiser = trained_a_step(seed=2)
    restored = resume.restore(other, other_optimiser)
    assert torch.equal(torch.rand(3), expected)
    assert (restored.epoch, restored.batch, restored.sums) == (2, 5, {"train_loss": 1.5})
    assert (restored.epochs, restored.best_epoch) == ([{"train_loss": 3.0}], 1)
    assert torch.equal(restored.best_weights["item_bias"], progress.best_weights["item_bias"])
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.parameters(), other.parameters(), strict=True)
    )
    of_state, of_other = optimiser.state_dict(), other_optimiser.state_dict()
    assert str(of_state) == str(of_other)


def test_every_rank_gets_its_own_generator_back(resume, monkeypatch):
    states = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    expected = [torch.rand(3) for state in states if torch.set_rng_state(state) is None]
    monkeypatch.setattr(Ranks, "gather", lambda ranks, own: states)
    resume.save(Progress(), *trained_a_step(seed=1), Ranks(0, 2))
    for rank, drawn in enumerate(expected):
        torch.manual_seed(0)
        resume.restore(*trained_a_step(seed=1), Ranks(rank, 2))
        assert torch.equal(torch.rand(3), drawn)
    resume.restore(*trained_a_step(seed=1), Ranks(0, 3))  # as many others start as they would
    assert not torch.equal(torch.rand(3), expected[0])


def test_what_a_killed_save_left_goes_with_the_next(resume):
    resume.path.parent.mkdir(parents=True)
    left, written = (resume.path.with_suffix(f".{pid}") for pid in (4711, 4712))
    for file in (left, written):
        file.write_bytes(b"half a state")
    os.utime(left, (0, 0))
    resume.save(Progress(), *trained_a_step(seed=1))
    assert set(resume.path.parent.iterdir()) == {resume.path, written}


def test_a_resumed_run_takes_as_many_threads_as_before(resume):
    """On more cores sums would end in other bits."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        resume.save(Progress(), *trained_a_step(seed=1))
        torch.set_num_threads(1)
        resume.restore(*trained_a_step(seed=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_without_a_state_a_run_starts_at_the_first_epoch(resume):
    assert resume.restore(*trained_a_step(seed=1)) == Progress()


def test_a_state_with_code_in_it_is_refused_and_nothing_runs(resume, tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    resume.path.parent.mkdir(parents=True)
    torch.save({"weights": Evil()}, resume.path)
    with pytest.raises(DataError, match=r"state\.pt, which is not a resume state"):
        resume.restore(*trained_a_step(seed=1))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_state_says_what_to_do(resume):
    resume.save(Progress(), *trained_a_step(seed=1))
    resume.path.write_bytes(resume.path.read_bytes()[:-100])
    with pytest.raises(DataError, match="delete the file"):
        resume.restore(*trained_a_step(seed=1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("can't allocate memory: you tried"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
def test_op17_a_state_is_not_blamed_for_what_the_host_lacks(resume, monkeypatch, error):
    resume.save(Progress(), *trained_a_step(seed=1))

    def load(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error), match=re.escape(str(error))):
        resume.restore(*trained_a_step(seed=1))


def test_a_removed_state_leaves_no_file(resume, tmp_path):
    resume.save(Progress(), *trained_a_step(seed=1))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["state.pt"]
    resume.remove()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_runs_with_other_fingerprints_have_other_states(tmp_path):
    ResumeState.of(tmp_path, "2017-10-31", "f1").save(Progress(epoch=4), *trained_a_step(seed=1))
    other = ResumeState.of(tmp_path, "2017-10-31", "f2")
    assert other.restore(*trained_a_step(seed=1)).epoch == 1
