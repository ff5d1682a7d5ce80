import errno
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.errors import SettingsError, without_passwords
from schemas.reference import pipeline_toml
from schemas.settings import Settings, load, properties


def test_the_file_overrides_defaults_and_the_environment_overrides_the_file(tmp_path):
    file = tmp_path / "pipeline.toml"
    file.write_text("[training]\nepochs = 4\nwidth = 32\n")
    settings = load(file, {"PENUMBRA_TRAINING__EPOCHS": "3"})
    assert (settings.training.epochs, settings.training.width) == (3, 32)


@pytest.mark.parametrize(
    ("variable", "text", "read", "value"),
    [
        ("PENUMBRA_TRAINING__LEARNING_RATE", "5e-4", ("training", "learning_rate"), 5e-4),
        ("PENUMBRA_TRAINING__LOSS", "cross_entropy", ("training", "loss"), "cross_entropy"),
        ("PENUMBRA_EVALUATION__EXCLUDE_SEEN", "false", ("evaluation", "exclude_seen"), False),
        ("PENUMBRA_SPARK__CONF", '{"spark.a" = "b"}', ("spark", "conf"), {"spark.a": "b"}),
        ("PENUMBRA_SCHEDULE__START_DATE", "2017-01-01", ("schedule", "start_date"), "2017-01-01"),
        ("PENUMBRA_REGISTRY__MODEL_NAME", "123", ("registry", "model_name"), "123"),
        ("PENUMBRA_EVENTS__PATH", "'my events'", ("events", "path"), "my events"),
    ],
)
def test_variables_are_read_as_toml_or_else_as_text(variable, text, read, value):
    section, key = read
    assert getattr(getattr(load(None, {variable: text}), section), key) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 0", r"training\.epochs = 0; expected integer, ≥ 1"),
        ("epochs = 'many'", r"training\.epochs = 'many'; expected integer, ≥ 1"),
        ("epochs = '3'", r"training\.epochs = '3'; expected integer, ≥ 1"),
        ("epochs = true", r"training\.epochs = True; expected integer, ≥ 1"),
        ("history_skip = 'no'", r"training\.history_skip = 'no'; expected boolean"),
        ("clip_norm = inf", r"training\.clip_norm = inf; expected number, > 0"),
        ("num_heads = 3", r"training\.num_heads = 3; expected a divisor of training\.width = 64"),
        ("dropout = 1.0", r"training\.dropout = 1\.0; expected number, ≥ 0, < 1"),
        ("loss = 'hinge'", r"training\.loss = 'hinge'; expected one of cross_entropy, label_sm"),
        ("epoch = 3", r"training\.epoch, which is no setting; expected one of .*training\.epochs"),
    ],
)
def test_a_bad_setting_names_its_key_and_what_is_allowed(tmp_path, line, message):
    file = tmp_path / "mine.toml"
    file.write_text(f"[training]\n{line}\n")
    with pytest.raises(SettingsError, match=message) as caught:
        load(file, {})
    assert "mine.toml or PENUMBRA_TRAINING__" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedule]\ncron = 'foo'", r"schedule\.cron = 'foo'; expected minute, hour"),
        ("[schedule]\ncron = '61 * * * *'", r"schedule\.cron = '61 \* .*; expected minute, hour"),
        ("[schedule]\ncron = '0 2 * * * *'", r"schedule\.cron = .*; expected minute, hour"),
        ("[schedule]\ncron = '0 0 30 2 *'", r"schedule\.cron = '0 0 30 2 \*'; expected minute"),
        ("[schedule]\ncron = 'R 2 * * *'", r"schedule\.cron = 'R 2 \* .*; expected minute"),
        ("[schedule]\ncron = '0 2 * * 1-5'", r"schedule\.cron = .*; expected one night for every"),
        ("[schedule]\ncron = '0 */6 * * *'", r"schedule\.cron = .*; expected one night for every"),
        ("[schedule]\ncron = '0 2 1-30 * *'", r"schedule\.cron = .*; expected one night for every"),
        ("[schedule]\nfreshness_cron = '@nightly'", r"freshness_cron = '@nightly'; expected min"),
        ("[events]\nhistory_days = 14", r"history_days = 14, all of it .*; expected more .* = 14"),
        ("[schedule]\nstart_date = '2017-99-01'", r"schedule\.start_date = '2017-99-01'; expec"),
        ("[registry]\nmodel_name = 'team/a'", r"registry\.model_name = 'team/a'; expected string"),
        ("[alerts]\nchannel = 'smtp'", r"alerts\.to = ''; expected an address for alerts\.chan"),
        ("[evaluation]\nlight_history = 60", r"evaluation\.heavy_history = 50; expected at leas"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_before_anything_runs(
    tmp_path, text, message
):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load(file, {})


@pytest.mark.parametrize(
    "text",
    [
        "[schedule]\ncron = '@daily'\nfreshness_cron = '*/5 6-22 * * mon-fri'",
        "[events]\nhistory_days = 15",
        "[events]\nhistory_days = 2\n[split]\nprotocol = 'leave_one_out'",
    ],
)
def test_settings_that_fit_together_are_taken(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert load(file, {}).model_dump(exclude_defaults=True)


def test_a_variable_with_one_underscore_is_not_ignored():
    with pytest.raises(
        SettingsError, match="PENUMBRA_TRAINING_EPOCHS; expected PENUMBRA_TRAINING__E"
    ):
        load(None, {"PENUMBRA_TRAINING_EPOCHS": "3"})
    assert load(None, {"PENUMBRA_EVENTS": "/srv/events", "PENUMBRA_ROOT": "/data"}) == Settings()


def test_an_unknown_section_in_the_environment_is_an_error_too():
    with pytest.raises(
        SettingsError, match=r"trainng, which is no setting; expected one of .*training"
    ):
        load(None, {"PENUMBRA_TRAINNG__EPOCHS": "3"})


@pytest.mark.parametrize("content", [b"training = 3", b"[training\n", b"# \xff"])
@pytest.mark.parametrize("environment", [{}, {"PENUMBRA_TRAINING__EPOCHS": "3"}])
def test_a_file_of_the_wrong_shape_is_named(tmp_path, content, environment):
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"mine\.toml"):
        load(file, environment)


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(SettingsError, match="Is a directory; expected a TOML file"):
        load(tmp_path, {})


def test_op17_a_file_on_a_disk_that_is_away_is_no_wrong_setting(tmp_path, monkeypatch):
    def read_text(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(OSError, match="Stale"):
        load(tmp_path / "mine.toml", {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"no file .*absent\.toml"):
        load(tmp_path / "absent.toml", {})


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().training.epochs = 3  # type: ignore[misc]


def test_pipeline_toml_parses_to_the_defaults(tmp_path):
    file = tmp_path / "pipeline.toml"
    file.write_text(pipeline_toml())
    assert load(file, {}) == Settings()


def test_every_setting_says_what_it_does():
    assert all(p["description"].strip().endswith(".") for p in properties().values())


def test_the_digest_covers_the_named_sections_only():
    few, many = load(None, {"PENUMBRA_TRAINING__EPOCHS": "3"}), Settings()
    assert few.digest(["items"]) == many.digest(["items"])
    assert few.digest(["items", "training"]) != many.digest(["items", "training"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[spark]\nconf = 'fs.secret=S3CRET'", r"spark\.conf = a value that may"),
        ("[spark.config]\n'fs.secret' = 'S3CRET'", r"spark\.config, which is no setting"),
        ("[sparks.conf]\n'fs.secret' = 'S3CRET'", "sparks, which is no setting"),
    ],
)
def test_what_may_hold_a_password_is_not_in_the_error(tmp_path, text, found):
    file = tmp_path / "mine.toml"
    file.write_text(text + "\n")
    with pytest.raises(SettingsError, match=found) as refused:
        load(file, {})
    assert "S3CRET" not in str(refused.value)


def test_passwords_of_addresses_are_left_out_and_nothing_else():
    said = "to http://nightly:S3C@RET@mlflow:5000/api, http://mlflow:5000/x@y http://h:80?q=a@b"
    expected = "to http://nightly:…@mlflow:5000/api, http://mlflow:5000/x@y http://h:80?q=a@b"
    assert without_passwords(said) == expected
