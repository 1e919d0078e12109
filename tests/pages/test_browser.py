"""The pages as users see them: `moe-study ui` and the report, in a headless Chromium.

Debian's packages `chromium` and `chromium-driver`; without them the test is skipped. It asks for
what a user would look for: the study, its trials by state, a chart, the table; and for a console
without errors.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote, unquote_plus, urlsplit

import psutil
import pytest

from orchestrator.report.page import write_report
from orchestrator.report.records import read_launch
from orchestrator.stores.experiment_names import experiment_name, find_experiment
from orchestrator.study.library import load_study

WAIT_S = 240
# MLflow's page asks who is logged in, also where nobody can be; its charts are sized twice.
EXPECTED = ("/ajax-api/2.0/mlflow/users/current", "ResizeObserver loop completed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1300,1000",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield Browser(started, tmp_path_factory.mktemp("screenshots"))
    started.quit()


class Browser:
    """A page at a time; each that was looked at leaves a screenshot."""

    def __init__(self, driver, screenshots):
        self.driver, self.screenshots = driver, screenshots

    def open(self, url):
        self.driver.get("about:blank")
        self.driver.get(url)

    def wait_for(self, *parts):
        """Until the page shows all of the texts, in the letters' own case or another."""
        wait_until(lambda: all(p.lower() in self.text().lower() for p in parts), parts, self.text)

    def text(self):
        return self.driver.execute_script("return document.body ? document.body.innerText : ''")

    def count(self, selector):
        return self.driver.execute_script(
            "return document.querySelectorAll(arguments[0]).length", selector
        )

    def finish(self, name):
        """Keeps a screenshot, and returns the errors of the console. No page asks for anything
        from elsewhere than this machine."""
        self.driver.save_screenshot(str(self.screenshots / f"{name}.png"))
        assert [url for url in self.requests() if not is_here(url)] == []
        found = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [e["message"] for e in found if not any(part in e["message"] for part in EXPECTED)]

    def requests(self):
        """What was asked for since the last time."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]


def is_here(url):
    parts = urlsplit(url)
    return parts.scheme not in ("http", "https") or parts.hostname in ("127.0.0.1", "localhost")


def wait_until(condition, what, seen=lambda: ""):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}; there was: {seen()[:2000]}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def pages(finished, moe_study_command, browser):
    """Addresses that `moe-study ui` prints; on leaving, Ctrl-C has to end all that it began."""
    command, environment = moe_study_command
    process = subprocess.Popen(
        [*command, "ui", "--home", str(finished.home.root)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    addresses = [process.stdout.readline().split() for _ in range(3)]
    assert all(addresses), process.stderr.read()
    yield {words[0]: words[-1] for words in addresses}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, errors) == (0, "")
    words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    left = [line for line in words if any(str(finished.home.root) in word for word in line)]
    assert left == [], "ui left a process behind"


def test_the_first_page_leads_to_the_answer(browser, pages, finished):
    browser.open(pages["Launches"])
    browser.wait_for("quickstart", finished.name[:20], "16 of 16", "val/loss", "runs", "report")
    assert browser.finish("launches") == []
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.open(pages["Launches"])
        browser.wait_for("16 of 16")
        wide = "return document.documentElement.scrollWidth - innerWidth"
        assert browser.driver.execute_script(wide) <= 0, "nothing is wider than the screen"
        assert browser.finish("launches-phone") == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    link = "return [...document.querySelectorAll('td.links a')].map((a) => a.href)"
    browser.open(pages["Launches"])
    runs, curves, report, search = browser.driver.execute_script(link)
    # The table is there without a click, by its own first column: the best run stands first.
    browser.open(runs)
    best = min(
        (r for r in read_launch("quickstart", home=finished.home).trials if r.value is not None),
        key=lambda r: r.value,
    )
    browser.wait_for("matching runs", f"{best.cell}-seed{best.seed}")
    for column in ("cell", "seed", "val/loss", "val/perplexity", "params_active"):
        browser.wait_for(column)
    text = browser.text()
    others = [
        m
        for m in (
            f"{r.cell}-seed{r.seed}" for r in read_launch("quickstart", home=finished.home).trials
        )
        if m in text and m != f"{best.cell}-seed{best.seed}"
    ]
    first = min(text.index(name) for name in [*others, f"{best.cell}-seed{best.seed}"])
    assert first == text.index(f"{best.cell}-seed{best.seed}")
    assert browser.finish("mlflow-first") == []
    browser.open(curves)
    browser.wait_for("val/loss", "Group: token-learned", "Group: dense-active")
    assert browser.finish("mlflow-curves") == []
    browser.open(report)
    browser.wait_for("Not evidence", "Verdicts", "token-learned minus dense-active")
    link = browser.driver.execute_script("return document.querySelector('td.id a').href")
    assert link.startswith(pages["MLflow"].partition("/#/")[0]), "it follows the port of `ui`"
    assert browser.count("[data-title*='Share'], [data-attr='sendChartToCloud']") == 0
    assert browser.finish("report-from-the-index") == []
    browser.open(search)
    browser.wait_for("Best Trial")


def test_mlflow_page(browser, pages, finished):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(finished.home.mlflow_uri)
    launch = find_experiment(client, finished.name)
    (parent,) = client.search_runs([launch.experiment_id], "tags.`moe_study.parent` = 'true'")
    question = load_study("quickstart").question
    base, _, view = pages["MLflow"].partition("/#/experiments")

    browser.open(pages["MLflow"])
    browser.wait_for("Experiments", experiment_name(finished.name)[:20])
    assert browser.finish("mlflow-experiments") == []

    browser.open(f"{base}/#/experiments/{launch.experiment_id}{view}")
    browser.wait_for("quickstart", "matching runs", question)
    assert "17" in browser.text()
    assert browser.finish("mlflow-runs") == []

    run = f"{base}/#/experiments/{launch.experiment_id}/runs/{parent.info.run_id}"
    browser.open(f"{run}{view}")
    browser.wait_for("mixture: a mixture beats the dense model", "undecided")
    assert browser.finish("mlflow-parent") == []
    browser.open(f"{run}/artifacts{view}")
    browser.wait_for("report.html", "table.md", "claims.json", "figures")
    assert browser.finish("mlflow-artifacts") == []

    table = Path(client.download_artifacts(parent.info.run_id, "table.md")).read_text()
    found = re.search(r"^\| (token-learned) .*\[0\]\(http[^)]*(/#/[^)]*)\)", table, re.M)
    assert found, "the seeds of a row lead to their runs"
    browser.open(f"{base}{found[2]}")
    browser.wait_for(f"{found[1]}-seed0", "val/loss")
    assert browser.finish("mlflow-run-of-the-table") == []


def test_each_query_of_the_documentation_works_when_it_is_typed(browser, pages, finished):
    from mlflow.tracking import MlflowClient
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    text = (Path(__file__).parents[2] / "docs/querying.md").read_text("utf-8")
    queries = re.findall(r"^```text\n(.*?)\n```", text, re.M | re.S)
    assert len(queries) > 10
    client = MlflowClient(finished.home.mlflow_uri)
    launch = find_experiment(client, finished.name)
    browser.open(pages["Launches"])
    browser.wait_for("16 of 16")
    browser.open(browser.driver.execute_script("return document.querySelector('td.links a').href"))
    browser.wait_for("17 matching runs", "val/perplexity")
    (box,) = browser.driver.find_elements(By.CSS_SELECTOR, "input[placeholder^='metrics.rmse < 1']")
    for query in queries:
        found = client.search_runs([launch.experiment_id], query)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(query, Keys.ENTER)
        wait_until(lambda q=query: quote(q, safe="") in shown_query(browser), query, browser.text)
        browser.wait_for(f"{len(found)} matching run")
        assert box.get_attribute("value") == query, "as it was typed"
    assert browser.finish("mlflow-query") == []


def shown_query(browser):
    """The filter that the page has taken, as its address tells it."""
    return quote(unquote_plus(browser.driver.current_url), safe="")


def test_a_trial_leads_from_optuna_to_its_run(browser, pages, finished):
    records = read_launch("quickstart", home=finished.home).trials
    record = next(r for r in records if r.state == "complete")
    base = pages["MLflow"].partition("/#/")[0]
    link = record.attributes["mlflow.link"].partition("/#/")[2]
    browser.open(f"{base}/#/{link}")
    browser.wait_for(f"{record.cell}-seed{record.seed}", "val/loss")
    assert browser.finish("mlflow-run") == []


def test_optuna_dashboard(browser, pages, finished):
    browser.open(f"{pages['Optuna']}/dashboard")
    browser.wait_for(finished.name[:20])
    assert browser.finish("optuna-studies") == []

    browser.open(f"{pages['Optuna']}/dashboard/studies/1")
    browser.wait_for("History", "Best Trial", "Timeline", "Intermediate values", "Study Artifacts")
    wait_until(lambda: browser.count(".js-plotly-plot .main-svg") > 6, "the charts")
    wait_until(lambda: "val/loss against training FLOPs" in browser.text(), "the Pareto front")
    assert "curves.png" in browser.text()
    assert browser.finish("optuna-study") == []

    browser.open(f"{pages['Optuna']}/dashboard/studies/1/note")
    browser.wait_for("undecided", "mixture: a mixture beats the dense model")
    assert browser.finish("optuna-note") == []

    for number, state in enumerate(("Fail", "Pruned", "Complete")):
        browser.open(f"{pages['Optuna']}/dashboard/studies/1/trials?numbers={number}")
        browser.wait_for(f"Trial {number} (", state, "flops_per_token", "mlflow.link")
        assert browser.finish(f"optuna-trial-{state}") == []


@pytest.mark.parametrize("form", ["desktop", "phone", "dark"])
def test_report(browser, finished, tmp_path, form):
    launch = read_launch("quickstart", home=finished.home)
    path = write_report(launch, load_study("quickstart"), tmp_path / "report.html")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    if form == "phone":
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if form == "dark" else "light"}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    try:
        browser.open(path.as_uri())
        charts = "return document.documentElement.dataset.charts"
        wait_until(lambda: browser.driver.execute_script(charts), "the charts")
        assert browser.count("[data-figure] .main-svg") >= browser.count("[data-figure]") > 4
        assert browser.count("#table tbody tr") == 8
        browser.wait_for("14 complete", "1 failed", "1 pruned", "Not evidence")
        wide = "return document.documentElement.scrollWidth - innerWidth"
        assert browser.driver.execute_script(wide) <= 0, "nothing is wider than the screen"
        paper = browser.driver.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
        assert (paper == "rgb(255, 255, 255)") == (form != "dark")
        if form == "desktop":
            table_sorts(browser)
            curves_follow_their_choices(browser)
            in_print_headings_stay_with_their_figures(browser, tmp_path / "report.pdf")
        assert browser.finish(f"report-{form}") == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def table_sorts(browser):
    """A click on a head sorts by it, another one the other way."""
    script = browser.driver.execute_script
    rows = "[...document.querySelectorAll('#table tbody tr')]"
    read = f"return {rows}.map((r) => r.cells[%d].innerText)"
    heads = script(
        "return [...document.querySelectorAll('#table thead th')].map((h) => h.innerText.trim())"
    )
    place = next(i for i, head in enumerate(heads) if "val/loss" in head)
    click = f"document.querySelectorAll('#table thead th button')[{place}].click()"
    orders = []
    for _ in range(2):
        script(click)
        shown = script(read % place)
        orders.append([float(x.split()[0]) for x in shown if x[:1].isdigit()])
    assert len(orders[0]) > 4
    assert orders[0] == sorted(orders[0], reverse=orders[0] != sorted(orders[0]))
    assert orders[1] == orders[0][::-1]


def curves_follow_their_choices(browser):
    """Each choice of the form is drawn: the metric, the axis, its scale, seeds, the range."""
    from selenium.webdriver.support.ui import Select

    script = browser.driver.execute_script
    chart = "document.getElementById('figure-curves')"
    form = browser.driver.find_element("css selector", ".choices")
    selects = form.find_elements("tag name", "select")
    before = script(f"return JSON.stringify([{chart}.data.length, {chart}.layout])")
    seen = {before}
    for select in map(Select, selects):
        first = select.first_selected_option.text
        for option in [o.text for o in select.options if o.text != first]:
            select.select_by_visible_text(option)
            time.sleep(0.5)
            now = script(f"return JSON.stringify([{chart}.data.length, {chart}.layout])")
            assert now not in seen, f"{option} changes nothing"
            seen.add(now)
        select.select_by_visible_text(first)


_MARKED = """
const mark = (place, text) => {
  const small = document.createElement('small');
  small.style.fontSize = '2px';
  small.textContent = text;
  place.prepend(small);
};
const sections = [...document.querySelectorAll('section')].filter((s) => s.querySelector('figure'));
sections.forEach((section, i) => {
  mark(section.querySelector('h2'), `HEADING${i}.`);
  mark(section.querySelector('figure'), `FIGURE${i}.`);
});
return sections.length;
"""


def in_print_headings_stay_with_their_figures(browser, path):
    """On one page of the PDF, for which Debian's `poppler-utils` is asked."""
    if not shutil.which("pdftotext"):
        return
    count = browser.driver.execute_script(_MARKED)
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    path.write_bytes(base64.b64decode(printed["data"]))
    done = subprocess.run(["pdftotext", str(path), "-"], capture_output=True, text=True, check=True)
    pages = done.stdout.split("\f")
    assert count > 3
    for i in range(count):
        heading, figure = (
            [n for n, page in enumerate(pages) if f"{word}{i}." in page]
            for word in ("HEADING", "FIGURE")
        )
        assert heading == figure != [], f"section {i}"
