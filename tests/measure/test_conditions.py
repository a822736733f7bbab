from dataclasses import replace
from pathlib import Path

import pytest

from hwprune.measure.conditions import Conditions, read_conditions, spoiled
from hwprune.measure.sampling import Sampled
from hwprune.measure.watch import Watch
from tests.measure.fakes import InlineRunner


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


CPU = "devices/system/cpu"
SYSTEM = {
    f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "3400000",
    f"{CPU}/cpu3/cpufreq/scaling_cur_freq": "3100000",
    f"{CPU}/cpu2/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave",
    f"{CPU}/cpu2/thermal_throttle/core_throttle_count": "2",
    f"{CPU}/cpu3/thermal_throttle/core_throttle_count": "3",
    f"{CPU}/cpu2/thermal_throttle/package_throttle_count": "10",
    f"{CPU}/cpu3/thermal_throttle/package_throttle_count": "11",
    f"{CPU}/intel_pstate/no_turbo": "0",
    "class/thermal/thermal_zone0/type": "acpitz",
    "class/thermal/thermal_zone0/temp": "99000",
    "class/thermal/thermal_zone1/type": "x86_pkg_temp",
    "class/thermal/thermal_zone1/temp": "61500",
}


def test_everything_a_system_tells(tmp_path: Path):
    system = tree(tmp_path / "sys", SYSTEM)
    processes = tree(tmp_path / "proc", {"loadavg": "1.25 0.9 0.5 2/300 4711"})
    found = read_conditions([2, 3], system=system, processes=processes)
    assert found == Conditions(
        at=found.at,
        frequency_mhz=(3400.0, 3100.0),
        governor="performance,powersave",
        temperature_c=61.5,
        load=1.25,
        throttled=2 + 3 + 11,
        turbo=True,
    )
    assert found.slowest_mhz == 3100.0
    assert found.to_dict()["frequency_mhz"] == [3400.0, 3100.0]


def test_what_is_not_told_is_none(tmp_path: Path):
    found = read_conditions([0, 1], system=tmp_path / "none", processes=tmp_path / "none")
    assert found == Conditions(at=found.at, frequency_mhz=(None, None))
    assert found.slowest_mhz is None
    half = tree(tmp_path, {f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2000000", f"{CPU}/cpufreq/boost": "?"})
    found = read_conditions([0, 1], system=half, processes=half)
    assert found.frequency_mhz == (2000.0, None)
    assert (found.slowest_mhz, found.turbo) == (None, None)


def test_other_places_that_systems_keep_things_in(tmp_path: Path):
    listing = "processor\t: 0\ncpu MHz\t\t: 2100.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2800\n\nprocessor\t: 10\n"
    system = tree(
        tmp_path / "sys",
        {
            f"{CPU}/cpufreq/boost": "0",
            "class/hwmon/hwmon0/name": "nvme",
            "class/hwmon/hwmon0/temp1_input": "80000",
            "class/hwmon/hwmon1/name": "k10temp",
            "class/hwmon/hwmon1/temp1_input": "48000",
            "class/hwmon/hwmon1/temp2_input": "52000",
            "class/hwmon/hwmon1/temp3_input": "broken",
        },
    )
    processes = tree(tmp_path / "proc", {"cpuinfo": listing})
    found = read_conditions([1, 0, 10], system=system, processes=processes)
    assert found.frequency_mhz == (2800.0, 2100.5, None)
    assert (found.turbo, found.temperature_c) == (False, 52.0)


FINE = Conditions("now", (3000.0, 3100.0), "performance", 50.0, 0.1, 7, True)


def test_what_spoils_a_measurement():
    assert spoiled(3000.0, FINE, FINE) is None
    assert spoiled(3000.0, FINE, replace(FINE, temperature_c=99.0, load=0.2)) is None
    assert spoiled(3300.0, FINE, replace(FINE, frequency_mhz=(3000.0, 2980.0))) is None
    assert "fell from 3000 to 2600 MHz" in str(
        spoiled(3000.0, FINE, replace(FINE, frequency_mhz=(3000.0, 2600.0)))
    )
    assert "throttled 2 times" in str(spoiled(3000.0, FINE, replace(FINE, throttled=9)))
    assert "from performance to powersave" in str(spoiled(3000.0, FINE, replace(FINE, governor="powersave")))
    assert "switched off" in str(spoiled(3000.0, FINE, replace(FINE, turbo=False)))
    unknown = Conditions("now", (None, None))
    assert spoiled(None, unknown, unknown) is None
    assert spoiled(3000.0, None, FINE) is None


def test_the_watch_compares_with_the_best_clock_of_the_sweep():
    sampled = [Sampled([1.0], 1, 1, 0.1, 1.0, None)]
    runner = InlineRunner()
    slower = replace(FINE, frequency_mhz=(2500.0, 2500.0), temperature_c=70.0)
    # An idle core's clock, read before work, is no reference.
    idle = replace(FINE, frequency_mhz=(800.0, 800.0))
    runner.readings = [idle, FINE, idle, FINE, idle, slower, idle, FINE]
    watch = Watch(runner, 0.3)
    verdicts: list[str | None] = []
    for _ in range(4):
        watch.begin()
        verdicts.append(watch.end(sampled))
    assert verdicts[:2] == [None, None]
    assert "fell from 3000 to 2500 MHz" in str(verdicts[2])
    assert verdicts[3] is None
    record = watch.to_dict()
    assert (record["slowest_mhz"], record["fastest_mhz"], record["hottest_c"]) == (2500.0, 3000.0, 70.0)
    assert record["start"]["frequency_mhz"] == [800.0, 800.0]
    assert record["end"]["at"] == "now"


def test_a_machine_that_tells_nothing_leaves_empty_places():
    watch = Watch(InlineRunner(), 0.3)
    watch.begin()
    assert watch.end([]) is None
    assert watch.to_dict() == dict.fromkeys(["start", "end", "slowest_mhz", "fastest_mhz", "hottest_c"])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_starved_kernels(share: float):
    watch = Watch(InlineRunner(), 0.3)
    watch.begin()
    why = watch.end([Sampled([1.0], 1, 1, 0.1, share, None)] * 4)
    assert (why is None) == (share == 1.0)
