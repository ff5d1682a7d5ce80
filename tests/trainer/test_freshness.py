from datetime import UTC, date, datetime, timedelta

import pytest

from schemas.errors import StaleChampionError
from schemas.settings import HealthSettings, Settings
from trainer.freshness import judge, main
from trainer.versions import CHAMPION, Version

TRAINED_UNTIL = date(2017, 10, 24)
CHAMPION_3 = Version(3, "weights", date(2017, 10, 31), TRAINED_UNTIL)
END = datetime(2017, 10, 25, tzinfo=UTC)
SETTINGS = Settings(health=HealthSettings(freshness_hours=48))


def test_a_champion_is_fresh_up_to_the_limit():
    words = judge(CHAMPION_3, END + timedelta(hours=48), SETTINGS)
    assert words == "version 3 trained until 2017-10-24, 48 hours ago, may be 48"


def test_op22_a_champion_trained_on_older_data_is_stale_and_named():
    with pytest.raises(StaleChampionError, match="version 3 trained until 2017-10-24, 49 hours"):
        judge(CHAMPION_3, END + timedelta(hours=49), SETTINGS)


def test_op22_without_a_champion_the_alarm_fires_at_once(registry, make_night):
    with pytest.raises(StaleChampionError, match="no champion of penumbra"):
        main(make_night())


def test_the_registrys_champion_is_judged_at_the_end_of_a_day_that_is_past(
    registry, publish_items, publish_model, make_night, capsys
):
    items = publish_items([f"item-{n}" for n in range(12)])
    checkpoint = publish_model(items, trained_until=TRAINED_UNTIL)
    registry.point(CHAMPION, registry.register(checkpoint, items))
    main(make_night(ds=date(2017, 10, 26)))
    assert "freshness 2017-10-26: version 1 trained until 2017-10-24, 48 hours ago" in (
        capsys.readouterr().out
    )
    with pytest.raises(StaleChampionError, match="of the night 2017-10-31"):
        main(make_night(ds=date(2019, 10, 26)))
