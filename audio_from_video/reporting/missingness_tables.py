"""Tables of metrics/missingness.json: sound that is missing by class, by clip and in part.

docs/missingness.md explains each pattern and cites where it comes from.
"""

from audio_from_video.reporting.results import sample_size
from audio_from_video.reporting.row_tables import SAMPLE_SIZE
from audio_from_video.reporting.stage_tables import read_metrics
from audio_from_video.reporting.tables import (
    NUMBER,
    SHARE,
    SHORT_NUMBER,
    Cell,
    Content,
    Table,
    Unit,
    number,
    points,
    share,
)

TITLE = "Missing sound as it is"
EFFECTIVE = Unit("{:.0f}")  # of clips
MINUS_BASELINE = "minus video alone"


def missingness_tables() -> list[Table]:
    """Return the tables; UserError where the stage has not run."""
    metrics = read_metrics("missingness")
    if not metrics["as_found"]:
        return [action_table(metrics)]
    return [
        pattern_table(metrics),
        as_found_table(metrics),
        action_table(metrics),
        never_hurts_table(metrics),
        value_table(metrics),
    ]


def pattern_table(metrics: dict) -> Table:
    """Return accuracies by pattern of missing sound and how much of it is missing."""
    amounts = set()
    for pattern in ("random", "class_dependent", "segments"):
        for by_amount in metrics[pattern].values():
            amounts |= set(by_amount)
    columns = sorted(amounts, key=float)
    header = ["condition", "what lacks sound", *(f"{each} % missing" for each in columns)]
    lines: list[list[Content]] = []
    for name in metrics["random"]:
        of_class = metrics["class_dependent"][name]
        accuracy = {amount: share(each["accuracy"]) for amount, each in of_class.items()}
        minus = {amount: points(each["minus_random"]) for amount, each in of_class.items()}
        patterns: dict[str, dict[str, Cell]] = {
            "random clips": shares(metrics["random"][name]),
            "clips by action": accuracy,
            "clips by action, minus random clips": minus,
            "a part of every clip": shares(metrics["segments"][name]),
        }
        adapted = metrics["adaptation"].get(name, {})
        if adapted:
            patterns |= {
                "random clips, adapting": {
                    amount: share(each["accuracy"]) for amount, each in adapted.items()
                },
                "adapting, minus not adapting": {
                    amount: points(each["difference"]) for amount, each in adapted.items()
                },
            }
        for pattern, cells in patterns.items():
            lines.append([f"`{name}`", pattern, *(cells.get(column, "") for column in columns)])
    estimate = next(iter(next(iter(metrics["random"].values())).values()))
    note = (
        "Accuracy on all test clips where so much of their sound is missing beside what is silent "
        "anyway, and differences in points, paired in the same networks. Random clips: those of "
        "the table of missing rates. Clips by action: as many audible clips lose their sound, "
        "drawn with odds in proportion to how many training clips of their action are silent. A "
        "part of every clip: so many of its steps in a row lack the sound, at the same place for "
        "all conditions; there, and where a clip is silent, stands what the condition has for "
        "missing sound. Linear and kernel heads pool over all steps, of which those without sound "
        "count as the mean of the sound that was learned from. Adapting: the token and the biases "
        "follow the unlabelled test clips (MiDl). "
        f"{SAMPLE_SIZE.capitalize()}: {sample_size(estimate, metrics['trainings'])}."
    )
    for name, reason in metrics["left_out"].items():
        note += f" `{name}` is left out: {reason}."
    return Table("missingness", TITLE, header, lines, note)


def shares(estimates: dict[str, dict]) -> dict[str, Cell]:
    """Return the cells of fractions by their keys."""
    return {key: share(estimate) for key, estimate in estimates.items()}


def as_found_table(metrics: dict) -> Table:
    """Return accuracies on audible and on inaudible clips."""
    header = ["condition"]
    for subset in ("audible", "inaudible"):
        measures = ("accuracy", MINUS_BASELINE, SAMPLE_SIZE)
        header += [f"{subset}: {measure}" for measure in measures]
    lines: list[list[Content]] = []
    for name, figures in metrics["as_found"].items():
        line: list[Content] = [f"`{name}`"]
        for subset in ("audible", "inaudible"):
            accuracy = figures[subset]["accuracy"]
            size = sample_size(accuracy, metrics["trainings"])
            line += [share(accuracy), points(figures[subset]["difference"]), size]
        lines.append(line)
    note = (
        "Every clip with its own sound where it is audible, and with what the condition has for "
        "missing sound where not. Per cent and points. "
        f"{baselines_note(metrics, list(metrics['as_found']))}"
    )
    return Table("missingness_as_found", f"{TITLE}: audible clips", header, lines, note)


def baselines_note(metrics: dict, names: list[str]) -> str:
    """Return what stands for video alone where these conditions are compared with it."""
    compared: dict[str, list[str]] = {}
    for name in names:
        compared.setdefault(metrics["baselines"][name], []).append(f"`{name}`")
    parts = [f"`{baseline}` for {', '.join(names)}" for baseline, names in compared.items()]
    return f"Video alone is the same kind of model without sound: {'; '.join(parts)}."


def action_table(metrics: dict) -> Table:
    """Return how often the clips of each action are audible."""
    header = ["action", "audible test clips", "silent training clips", "clips / sources"]
    lines: list[list[Content]] = []
    for action, figures in metrics["audible"].items():
        size = f"{figures['n']} / {figures['sources']}"
        silent = number(figures["silent_in_training"], SHARE)
        lines.append([action, share(figures), silent, size])
    note = (
        "Per cent; silent clips and clips without a sound track are inaudible. Of training clips "
        "(silent + 1) / (clips + 2), the odds by which clips lose their sound above."
    )
    return Table("missingness_actions", f"{TITLE}: by action", header, lines, note)


def never_hurts_table(metrics: dict) -> Table:
    """Return what own sound adds to no sound, by how many of the steps lack it."""
    columns = list(next(iter(metrics["never_hurts"].values())))
    header = ["condition"]
    for column in columns:
        header += [f"{column} % missing: gain", f"{column} % missing: loss rises"]
    header.append(SAMPLE_SIZE)
    lines: list[list[Content]] = []
    for name, by_share in metrics["never_hurts"].items():
        line: list[Content] = [f"`{name}`"]
        for column in columns:
            line += [points(by_share[column]["gain"]), share(by_share[column]["loss_rises"])]
        gain = next(iter(by_share.values()))["gain"]
        lines.append([*line, sample_size(gain, metrics["trainings"])])
    note = (
        "On audible test clips, against no own sound at all in the same networks. Gain in "
        "accuracy, points: below 0 more sound hurts. Loss rises: per cent of clips and trainings "
        "to which the sound makes the true action less likely (the check behind SimMLM)."
    )
    return Table("missingness_never_hurts", f"{TITLE}: does sound ever hurt?", header, lines, note)


def value_table(metrics: dict) -> Table:
    """Return the gain of real sound, as it is and reweighted."""
    value = metrics["value"]
    header = [
        "condition",
        f"{MINUS_BASELINE}, audible clips",
        "weighted to all clips",
        "effective clips",
        SAMPLE_SIZE,
    ]
    lines: list[list[Content]] = []
    for name, gains in value["gains"].items():
        lines.append(
            [
                f"`{name}`",
                points(gains["unweighted"]),
                points(gains["weighted"]),
                number(gains["weighted"]["effective_n"], EFFECTIVE),
                sample_size(gains["unweighted"], metrics["trainings"]),
            ]
        )
    model = value["propensity"]
    note = (
        "Gains of conditions that learned with real sound, in points. Weights: 1 / P(audible | "
        "video), by logistic regression on training and unlabelled clips (ICYM2I). Its log loss on "
        f"validation is {number(model['log_loss'], NUMBER)}, that of the share of audible clips "
        f"{number(model['log_loss_of_share'], NUMBER)}; the largest weight is "
        f"{number(model['largest_weight'], SHORT_NUMBER)}. Effective clips: how many equally "
        f"weighted ones would tell as much. {baselines_note(metrics, list(value['gains']))}"
    )
    return Table("missingness_value", f"{TITLE}: what sound is worth", header, lines, note)
