"""What a run says about itself, to TensorBoard and on the terminal."""

import itertools
import json
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from conftest import events, scalars, texts
from processes import GUIDED, PLAIN, wait_for
from torch.utils.tensorboard import SummaryWriter

from guided_utils import console


def test_tensorboard_s_layout_and_table_of_settings(run_here):
    """Returns and guidance in one chart; the settings stand in HPARAMS, beside the last point of these tags."""
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = run_here(*PLAIN, "--seed", "5")
    log = events(run.run_name)
    layout = Layout()
    layout.ParseFromString(log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for group in layout.category for chart in group.chart}
    assert charts["return"] == ["charts/episodic_return", "eval/episodic_return", "charts/guidance_active"]
    assert charts["return over equal steps"][0] == "supervisor/trial_guided_return"
    assert charts["return of an episode"] == ["supervisor/guided_return", "supervisor/unguided_return"]
    parts = {name: HParamsPluginData.FromString(content)
             for name, content in log.PluginTagToContent("hparams").items()}  # fmt: skip
    hparams = parts["_hparams_/session_start_info"].session_start_info.hparams
    assert hparams["seed"].number_value == 5 and hparams["env_id"].string_value == "MountainCarContinuous-v0"
    metrics = [metric.name.tag for metric in parts["_hparams_/experiment"].experiment.metric_infos]
    assert metrics == ["eval/episodic_return", "charts/episodic_return"]


def served(url: str, path: str, body: dict | None = None):
    """What TensorBoard's page gets, decoded."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}data/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_real_tensorboard_serves_what_a_guided_run_logged(run_here, capsys):
    """Started as the run's last lines say, and asked over HTTP as its page asks: layout, HPARAMS, steps, all texts."""
    run = run_here(*GUIDED, "--eval-frequency", "150", "--eval-episodes", "1", "--total-timesteps", "200",
                   "--guide-end", "120")  # fmt: skip
    name, logged = run.run_name, scalars(run.run_name)
    with SummaryWriter(f"runs/{name}") as writer:  # a long run has more than TensorBoard keeps by default
        for step in range(120):
            writer.add_text("supervisor/advice", f"advice {step}", 1_000 + step)
    _, *command = shlex.split(re.search("see them with: (.*)", capsys.readouterr().out)[1])
    command = [sys.executable, "-m", "tensorboard.main", *command, "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = re.search(r"(http://\S+/)", wait_for(process, "http://127.0.0.1"))[1]
        ask = urllib.parse.urlencode
        while name not in served(url, "runs"):
            time.sleep(0.5)
        asked, many = ask({"run": name, "tag": "supervisor/advice/text_summary"}), len(texts(name, "supervisor/advice"))
        while len(served(url, f"plugin/text/text?{asked}")) < many:  # else the test's time is over
            time.sleep(0.5)  # it reads the folder every few seconds
        assert many > 120

        groups = served(url, "plugin/custom_scalars/layout")["category"]
        charts = {chart["title"]: chart["multiline"]["tag"] for group in groups for chart in group["chart"]}
        assert charts["return"] == ["charts/episodic_return", "eval/episodic_return", "charts/guidance_active"]
        asked = ask({"run": name, "tag": "charts/guidance_active"})
        active = [(step, value) for _, step, value in served(url, f"plugin/scalars/scalars?{asked}")]
        assert active == logged["charts/guidance_active"]
        changes = [b[0] - a[0] for a, b in itertools.pairwise(active) if a[1] != b[1]]
        assert changes == [1] and active[0] == (0, 1.0)  # a step, no ramp
        assert active[-2:] == [(120, 0.0), (200, 0.0)]  # over the whole run

        tags = ["eval/episodic_return", "charts/episodic_return"]
        columns = [{"metric": {"group": "", "tag": tag}} for tag in tags]
        status = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        (group,) = served(url, "plugin/hparams/session_groups", {
            "experimentName": "", "allowedStatuses": status, "colParams": columns, "startIndex": 0, "sliceSize": 10,
        })["sessionGroups"]  # fmt: skip
        assert group["hparams"]["exp_name"] == "guided_sac_continuous_bundled" and group["hparams"]["seed"] == 4
        last = {value["name"]["tag"]: (value["trainingStep"], value["value"]) for value in group["metricValues"]}
        assert last == {tag: pytest.approx(logged[tag][-1]) for tag in tags}
    finally:
        process.terminate()
        process.wait()


def test_progress_tells_no_rate_before_there_is_one(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress = console.Progress(6_000)
    for seconds, step in ((1, 1), (6, 1), (12, 301), (13, 500), (18, 601)):
        clock[0] = seconds
        progress.report(step, [2.0])
    lines = ["step 1/6,000  return 2.0", "step 301/6,000  25 steps/s  0:03:47 left  return 2.0",
             "step 601/6,000  33 steps/s  0:02:41 left  return 2.0"]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.alone
def test_waiting_for_a_model_is_no_training_time():
    progress = console.Progress(1_000)
    with progress.paused():
        time.sleep(0.3)
    assert progress.seconds < 0.2
