"""Which charts there are, in which order, and what stands together in one."""

from __future__ import annotations

from hpckit.report.charts import charts_of

NAMES = [
    "train/adversarial",
    "train/mel",
    "grad/norm/discriminator",
    "grad/norm/generator",
    "lr/discriminator",
    "lr/generator",
]


def test_what_is_of_the_blamed_optimizer_comes_first() -> None:
    found = {chart.id: chart for chart in charts_of(NAMES, first={"generator"})}
    assert list(found)[:2] == ["grad/norm/generator", "grad/norm/discriminator"]
    assert [word for _, word in found["lr"].lines] == ["generator", "discriminator"]
    # Nobody is to blame: as the training told them.
    assert next(iter(charts_of(NAMES))).id == "grad/norm/discriminator"


def test_readings_whose_first_words_differ_in_a_number_are_compared() -> None:
    names = ["stage_0/rms", "mixer/gate", "stage_0/scale", "stage_1/rms", "stage_1/scale", "alone"]
    found = [chart for chart in charts_of(names) if chart.section == "other"]
    assert [chart.title for chart in found] == [
        "alone",
        "mixer/gate",
        "stage · rms",
        "stage · scale",
    ]
    assert found[2].lines == (("stage_0/rms", "stage_0"), ("stage_1/rms", "stage_1"))
    # Of several runs each line has its chart, by its whole name.
    overlaid = charts_of(names, overlaid=True)
    assert {chart.title for chart in overlaid} == set(names)
