"""What a run says to TensorBoard about itself."""

from processes import PLAIN


def test_tensorboard_s_layout_and_table_of_settings(run_here):
    """Returns and guidance in one chart; the settings stand in HPARAMS, beside the last point of these tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = run_here(*PLAIN, "--seed", "5")
    log = EventAccumulator(f"runs/{run.run_name}").Reload()
    layout = Layout()
    layout.ParseFromString(log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for group in layout.category for chart in group.chart}
    assert charts["return"] == ["charts/episodic_return", "eval/episodic_return", "charts/guidance_active"]
    assert charts["return over equal steps"][0] == "supervisor/trial_guided_return"
    parts = {name: HParamsPluginData.FromString(content)
             for name, content in log.PluginTagToContent("hparams").items()}  # fmt: skip
    hparams = parts["_hparams_/session_start_info"].session_start_info.hparams
    assert hparams["seed"].number_value == 5 and hparams["env_id"].string_value == "MountainCarContinuous-v0"
    metrics = [metric.name.tag for metric in parts["_hparams_/experiment"].experiment.metric_infos]
    assert metrics == ["eval/episodic_return", "charts/episodic_return"]
