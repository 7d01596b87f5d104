"""What Prometheus is told: over real runs, by its own parser, and as contrib/docs/monitoring.md says."""

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from syncagent.agent import metrics
from syncagent.config import load as configuration
from syncagent.state import status
from syncagent.state.not_relayed import NotRelayed
from tests.agent import Station
from tests.scenario import people
from tests.support.pages import ROOT, page, section
from tests.support.promtool import need_promtool
from tests.support.reporting import Desk

RULES = ROOT / "contrib" / "monitoring" / "syncagent.rules.yml"
PAGE = "contrib/docs/monitoring.md"
UNITS = {"seconds", "bytes", "ratio"}
NO_UNITS = {"milliseconds", "minutes", "hours", "days", "ms", "kb", "kilobytes", "percent", "time", "age", "timestamp"}


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX of two domains and two sources, with metrics."""
    station = Station(tmp_path, "corp", "extra")
    station.relay_domains = ["example.com", "example.org"]
    station.write("corp", people(40))
    station.write("extra", people(10, "example.org"))
    station.schedule = {}
    (tmp_path / "textfiles").mkdir()
    configure(station, tmp_path / "textfiles" / "syncagent.prom")
    return station


def configure(mx: Station, file: Path) -> None:
    """Say where the metrics go."""
    mx.extra = f'[metrics]\ntextfile = "{file}"\n'


def textfile(mx: Station) -> Path:
    """Give where they go."""
    return mx.directory / "textfiles" / "syncagent.prom"


@pytest.fixture
def desk(mx: Station) -> Desk:
    """Its agent, after a good run."""
    desk = Desk(mx)
    desk.run()
    desk.clear()
    return desk


def families(mx: Station) -> list[Metric]:
    """Read the file as Prometheus does."""
    return list(text_string_to_metric_families(textfile(mx).read_text("utf-8")))


def values(mx: Station) -> dict[str, float]:
    """Give each sample, by its name and the value of its label."""
    found: dict[str, float] = {}
    for family in families(mx):
        for sample in family.samples:
            found[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def everything(desk: Desk) -> set[str]:
    """Have all there is to tell, and give the metrics' names."""
    desk.scenario.postfix["doubt_map"] = f"lmdb:{desk.scenario.directory}/doubt"
    desk.scenario.write("corp", people(20) | {"anna@foreign.example"})
    desk.reporter.asked_dns(NotRelayed(time.time(), {"foreign.example": "backup.example.net"}))
    desk.run()
    assert isinstance(desk.scenario, Station)
    return {sample.name for family in families(desk.scenario) for sample in family.samples}


# --- what they say


def test_all_is_well(desk: Desk, mx: Station) -> None:
    """After a good run: recipients by domain, entries by source, nothing held, nobody needed."""
    now = values(mx)
    assert now["syncagent_recipients example.com"] == 40
    assert now["syncagent_recipients example.org"] == 10
    assert now["syncagent_held_removals example.com"] == 0
    assert now["syncagent_source_entries corp"] == 40
    assert now["syncagent_source_up corp"] == now["syncagent_source_up extra"] == 1
    assert now["syncagent_source_stale corp"] == 0
    assert now["syncagent_source_outdated corp"] == 0
    assert now["syncagent_alarms"] == now["syncagent_publish_failed"] == 0
    assert now["syncagent_runs_total published"] == 1
    standing = status.read(desk.config)
    assert now["syncagent_last_run_timestamp_seconds"] == pytest.approx(standing.last_run)
    assert now["syncagent_last_change_timestamp_seconds"] == pytest.approx(standing.last_change)
    assert now["syncagent_oldest_data_timestamp_seconds"] == standing.oldest_data
    assert 0 < now["syncagent_run_duration_seconds"] < 60


def test_held_and_failing(desk: Desk, mx: Station) -> None:
    """Held removals by domain; a source that fails is down with its last success, and what is oldest is its data."""
    before = values(mx)
    mx.write("corp", people(20))
    mx.break_source("extra")
    desk.run()
    now = values(mx)
    assert now["syncagent_held_removals example.com"] == 20
    assert now["syncagent_recipients example.com"] == 40
    assert (now["syncagent_source_up corp"], now["syncagent_source_up extra"]) == (1, 0)
    assert now["syncagent_source_entries extra"] == 10
    success = "syncagent_source_last_success_timestamp_seconds"
    assert now[f"{success} extra"] == before[f"{success} extra"] == now["syncagent_oldest_data_timestamp_seconds"]
    assert now[f"{success} corp"] > before[f"{success} corp"]
    assert now["syncagent_alarms"] == 1


def test_publishing_that_fails(mx: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 1 while it fails, and 0 again after that; runs are counted by what they came to."""
    mx.own_postmap()
    monkeypatch.setenv("PATH", mx.env["PATH"])
    desk = Desk(mx)
    desk.run()
    mx.postmap_fails.touch()
    mx.write("corp", people(41))
    desk.run()
    desk.run()
    assert values(mx)["syncagent_publish_failed"] == 1
    mx.postmap_fails.unlink()
    desk.run()
    now = values(mx)
    assert now["syncagent_publish_failed"] == 0
    assert (now["syncagent_runs_total failed"], now["syncagent_runs_total published"]) == (2, 2)


def test_a_counter_begins_anew_with_the_agent(desk: Desk, mx: Station) -> None:
    """As a counter does; when it was made is not told, since that is when the file was written."""
    desk.run()
    assert values(mx)["syncagent_runs_total unchanged"] == 1
    desk.restart()
    desk.run()
    now = values(mx)
    assert now["syncagent_runs_total unchanged"] == 1
    assert "syncagent_runs_total published" not in now
    assert not any("_created" in name for name in now)


def test_before_any_run_and_without_an_agent(mx: Station) -> None:
    """Nothing known is 0 and stale, and no fault."""
    metrics.write(textfile(mx), status.read(configuration.load(mx.configure())))
    now = values(mx)
    assert now["syncagent_oldest_data_timestamp_seconds"] == now["syncagent_last_run_timestamp_seconds"] == 0
    assert now["syncagent_source_stale corp"] == 1


def test_names_of_sources_and_domains(tmp_path: Path) -> None:
    """A source's name goes through as it is, whatever is allowed in it; an IDN domain as its A-label."""
    mx = Station(tmp_path, '"a.b-c_d"')
    mx.relay_domains = ["bücher.example"]
    mx.write('"a.b-c_d"', people(3, "xn--bcher-kva.example"))
    (tmp_path / "textfiles").mkdir()
    configure(mx, textfile(mx))
    Desk(mx).run()
    now = values(mx)
    assert now["syncagent_source_up a.b-c_d"] == 1
    assert now["syncagent_recipients xn--bcher-kva.example"] == 3


# --- how it is written


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_all_may_read_it(desk: Desk, mx: Station, umask: int) -> None:
    """Its mode is 0644 whatever the umask: node_exporter is another user."""
    textfile(mx).unlink()
    before = os.umask(umask)
    try:
        metrics.write(textfile(mx), status.read(desk.config))
    finally:
        os.umask(before)
    assert stat.S_IMODE(textfile(mx).stat().st_mode) == 0o644


def test_it_is_replaced_whole(desk: Desk, mx: Station) -> None:
    """Who has the last one open reads it to its end, and nothing else lies there that a collector would read."""
    with textfile(mx).open("rb") as reader:
        old = textfile(mx).read_bytes()
        inode = textfile(mx).stat().st_ino
        mx.write("corp", people(41))
        desk.run()
        assert textfile(mx).stat().st_ino != inode
        assert reader.read() == old
    assert [path.name for path in textfile(mx).parent.iterdir()] == ["syncagent.prom"]


def test_one_that_fails_half_way_leaves_the_last(desk: Desk, mx: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that fails leaves the last file, and no other."""
    old = textfile(mx).read_bytes()

    def full(*_: str, **__: int) -> None:
        raise OSError(28, "No space left on device")

    standing = status.read(desk.config)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            metrics.write(textfile(mx), standing)
    assert textfile(mx).read_bytes() == old
    assert len(list(textfile(mx).parent.iterdir())) == 1


def test_a_directory_that_cannot_be_written(desk: Desk, mx: Station) -> None:
    """It is an error in the log, once; the run is told all the same, and the map is right."""
    configure(mx, mx.directory / "nowhere" / "syncagent.prom")
    for count in (41, 42):
        mx.write("corp", people(count))
        result = desk.run()
        assert result
        assert result.status == "published"
    (line,) = [line for line in desk.lines if line["level"] == "error"]
    assert (line["event"], line["whom"]) == ("could not tell", "metrics.textfile")
    assert str(mx.directory / "nowhere") in line["error"]
    left = status.read_agent(mx.state)
    assert left
    assert left.runs == {"published": 3}
    desk.clear()
    (mx.directory / "nowhere").mkdir()
    desk.run()
    assert [(line["event"], line["level"]) for line in desk.lines] == [("could tell again", "info")]


# --- conventions: what `promtool check metrics` looks for


def test_names_keep_the_conventions(desk: Desk, mx: Station) -> None:
    """Snake case with our prefix, base units at the end, `_total` on counters alone, help, plain labels."""
    everything(desk)
    for family in families(mx):
        words = family.name.split("_")
        assert re.fullmatch(r"syncagent(_[a-z]+)+", family.name)
        assert re.fullmatch(r"[A-Z].*\.", family.documentation), family.name
        assert family.type in {"gauge", "counter"}
        assert not {"gauge", "counter", "total", "sum", "count", "bucket", "info"} & set(words)
        assert not UNITS & set(words[:-1]), "a unit comes last"
        if "timestamp" in words:
            assert words[-2:] == ["timestamp", "seconds"]
        else:
            assert not NO_UNITS & set(words), family.name
        for sample in family.samples:
            assert sample.name == family.name + ("_total" if family.type == "counter" else "")
            assert sample.timestamp is None, "node_exporter refuses a file with timestamps"
            assert len(sample.labels) <= 1
            for label in sample.labels:
                assert re.fullmatch(r"[a-z]+", label)
                assert label not in {"le", "quantile", "job", "instance"}


def test_each_sample_is_there_once(desk: Desk, mx: Station) -> None:
    """No series comes twice, and each metric's HELP and TYPE once, before its samples."""
    everything(desk)
    lines = textfile(mx).read_text("utf-8").splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))
    heads = [line.split()[1:3] for line in lines if line.startswith("#")]
    assert heads == [[kind, name] for _, name in heads[::2] for kind in ("HELP", "TYPE")]


# --- the page, and the file of rules


def described() -> set[str]:
    """Return the names of the metrics in the page's table."""
    rows = re.findall(r"^\| (`syncagent_.*?) \|", section(PAGE, "## Metrics"), re.MULTILINE)
    return set(re.findall(r"`(syncagent_[a-z_]+)(?:\{[a-z]+\})?`", " ".join(rows)))


def test_the_page_has_every_metric(desk: Desk) -> None:
    """Each metric that is written is described, and each one that is described is written, with the same label."""
    assert everything(desk) == described()
    assert isinstance(desk.scenario, Station)
    for family in families(desk.scenario):
        for sample in family.samples:
            label = "".join(f"{{{name}}}" for name in sample.labels)
            assert f"`{sample.name}{label}`" in section(PAGE, "## Metrics")


def rules() -> Iterator[dict[str, str]]:
    """Read the alert rules: not all of YAML, but each of their lines has to be what is known here."""
    lines = [line for line in RULES.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines[:3] == ["groups:", "  - name: syncagent", "    rules:"]
    rule: dict[str, str] = {}
    for line in lines[3:]:
        begun = re.fullmatch(r"      - alert: ([A-Za-z]+)", line)
        key = re.fullmatch(r"        (expr|for|labels|annotations): (.+)", line)
        assert begun or key, line
        if begun:
            if rule:
                yield rule
            rule = {"alert": begun[1]}
        elif key:
            assert key[1] not in rule
            rule[key[1]] = key[2]
    yield rule


def test_the_alert_rules(desk: Desk) -> None:
    """Each rule is whole, is about metrics that are there, and tells what to type."""
    known, found = everything(desk), list(rules())
    assert {rule["alert"] for rule in found} >= {"SyncagentStale", "SyncagentHeld", "SyncagentSourceFailing"}
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        named = set(re.findall(r"syncagent_[a-z_]+", rule["expr"]))
        assert named
        assert named <= known
        assert ": " not in rule["expr"]
        assert " #" not in rule["expr"]
        assert re.fullmatch(r"[0-9]+[smh]", rule["for"])
        assert re.fullmatch(r"\{severity: (critical|warning)\}", rule["labels"])
        assert re.fullmatch(r'\{summary: "[^"\\]+"\}', rule["annotations"])
        labels = set(re.findall(r"\$labels\.([a-z]+)", rule["annotations"]))
        table = "".join(f"{name}{{{label}}}" for name in named for label in labels)
        assert table in section(PAGE, "## Metrics")


def test_the_page_has_every_alert() -> None:
    """The page names the file of rules, and each of its rules with its severity."""
    assert "](../monitoring/syncagent.rules.yml)" in page(PAGE)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \|$", section(PAGE, "## Alert rules"), re.MULTILINE)
    assert sorted(rows) == sorted((rule["alert"], rule["labels"][len("{severity: ") : -1]) for rule in rules())


SERIES = {
    'syncagent_source_stale{source="corp"}': "0x80 1x300",
    'syncagent_source_outdated{source="corp"}': "0x10 1x300",
    "syncagent_next_run_timestamp_seconds": "0+60x120 7200x200",
    'syncagent_held_removals{domain="example.com"}': "0x10 20x300",
    'syncagent_rejected_entries{source="corp"}': "0x10 2x300",
    'syncagent_source_up{source="corp"}': "1x10 0x300",
    "syncagent_publish_failed": "0x10 1x300",
    'syncagent_domain_doubt_seconds{domain="example.com"}': "0x10 60+60x600",
    "syncagent_doubt_in_force": "1x10 0x300",
    'syncagent_domain_not_relayed{domain="example.com"}': "_x10 1x300",
}


def test_promtool(desk: Desk, mx: Station, tmp_path: Path) -> None:
    """Prometheus's own tool finds nothing in the file and in the rules, and each rule fires when it should."""
    promtool = need_promtool()
    everything(desk)
    with textfile(mx).open("rb") as file:
        done = subprocess.run([promtool, "check", "metrics"], check=False, stdin=file, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run([promtool, "check", "rules", RULES], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [f"rule_files: [{RULES}]", "evaluation_interval: 1m", "tests:", "  - interval: 1m", "    input_series:"]
    for series, said in SERIES.items():
        lines += [f"      - series: '{series}'", f"        values: '{said}'"]
    lines += ["    alert_rule_test:"]
    fires = {
        "SyncagentStale": "86m",
        "SyncagentOutdated": "16m",
        "SyncagentNotRunning": "156m",
        "SyncagentHeld": "132m",
        "SyncagentRejected": "132m",
        "SyncagentSourceFailing": "42m",
        "SyncagentPublishFailed": "22m",
        "SyncagentDoubt": "77m",
        "SyncagentDoubtLong": "497m",
        "SyncagentDoubtNotInForce": "22m",
        "SyncagentDomainNotRelayed": "17m",
    }
    for rule in rules():
        summary = rule["annotations"].removeprefix("{summary: ").removesuffix("}").strip('"')
        summary = re.sub(
            r"\{\{ \$labels\.([a-z]+) \}\}",
            lambda found: {"domain": "example.com", "source": "corp"}[found[1]],
            summary,
        )
        severity = rule["labels"].removeprefix("{severity: ").removesuffix("}")
        own = [
            f"{name}: {value}"
            for name, value in (("domain", "example.com"), ("source", "corp"))
            if name in rule["annotations"]
        ]
        lines += [f"      - {{eval_time: 9m, alertname: {rule['alert']}, exp_alerts: []}}"]
        lines += [
            f"      - eval_time: {fires[rule['alert']]}",
            f"        alertname: {rule['alert']}",
            "        exp_alerts:",
        ]
        lines += [f"          - exp_labels: {{{', '.join([f'severity: {severity}', *own])}}}"]
        lines += [f'            exp_annotations: {{summary: "{summary}"}}']
    (tmp_path / "test.yml").write_text("\n".join(lines), "utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
