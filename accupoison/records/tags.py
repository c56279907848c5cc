"""The names of the scalars that a run records."""

from collections.abc import Mapping

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
THREAT = "threat.json"

DETECTORS: dict[str, str] = {
    "kd": "minus the log density of trusted features (KD)",
    "lid": "local intrinsic dimensionality (LID)",
    "gda": "squared Mahalanobis distance to the nearest class (GDA)",
    "gmm": "minus the log density of a Gaussian mixture (GMM)",
    "loss": "loss minus loss under the early snapshot",
}
"""What the detectors of ``evaluate.detectors`` score a row by."""
AGAINST = {"clean": "the clean ones", "noise": "these with Rademacher noise of the same eps"}
"""What poisoned rows are told from."""
AUCS: dict[str, str] = {
    f"detectors/{name}_auc_{kind}": f"AUC of {score}, poisoned rows against {others}; in [0, 1], "
    "0.5 where they look alike"
    for name, score in DETECTORS.items()
    for kind, others in AGAINST.items()
}

TAGS: dict[str, str] = {
    "test/acc": "accuracy on the test set after the step; fraction in [0, 1]",
    "test/acc_bn_reestimated": "the same once BatchNorm statistics are re-estimated on clean images; in [0, 1]",
    "test/loss": "mean cross-entropy on the test set after the step; nats, >= 0",
    "test/novel_classes_acc": "accuracy on the test images of the classes held out of the burn-in; fraction in [0, 1]",
    "test/shifted_acc": "accuracy on the test set under the stream's current corruption; fraction in [0, 1]",
    "test/shifted_acc_bn_reestimated": "the same once BatchNorm statistics are re-estimated; in [0, 1]",
    "train/loss": "mean training loss over an epoch of the burn-in; nats, >= 0",
    "train/acc": "accuracy on the training batches of an epoch of the burn-in; fraction in [0, 1]",
    "monitor/acc": "accuracy on the monitor images, classes weighted as in the test set; fraction in [0, 1]",
    "monitor/acc_low": "lower end of the 95% interval of monitor/acc; fraction in [0, 1]",
    "monitor/acc_high": "upper end of that interval; fraction in [0, 1]",
    "stream/acc": "accuracy on the clean batch before the update (test, then train); fraction in [0, 1]",
    "stream/loss": "mean cross-entropy on that batch before the update; nats, >= 0",
    "attack/trigger_step": "the step is the one at which the trigger arrives; 1 or 0",
    "attack/linf": "largest distance by which the attacker moved a pixel or a feature; in [0, 1]",
    "attack/alignment": "sum over parameter tensors of the cosine between the gradients of trigger and val; "
    "no unit, at most the number of tensors either way",
    "attack/feasible": "the attacker's own constraint holds for the batch, as it predicts it; 1 or 0",
    "attack/scale": "share of the perturbation that the stealth constraint left; fraction in [0, 1]",
    "attack/objective": "what an adaptive attack maximises, at the batch that it sends; unit its own",
    "attack/poisoned_rows": "rows whose label the attacker changed, or that are its own; count, of attacks that do so",
    "defense/noisy_auc": "AUC of the defence's belief that a label is wrong, the attacker's rows against the others; "
    "in [0, 1]",
    "defense/discrepancy_clean": "mean memorization discrepancy of the clean batch before the update; nats, >= 0",
    "defense/discrepancy_sent": "mean memorization discrepancy of the batch that reached the defence; nats, >= 0",
    "defense/discrepancy_seen": "mean memorization discrepancy of the batch that the defence passed on; nats, >= 0",
    "defense/discrepancy_auc_clean": "AUC of per-sample discrepancy, sent rows against clean ones; in [0, 1], "
    "0.5 where they look alike",
    "defense/discrepancy_auc_noise": "AUC of per-sample discrepancy, sent rows against clean ones with Rademacher "
    "noise of the same eps; in [0, 1], 0.5 where they look alike",
    **AUCS,
    "defense/threshold": "discrepancy above which the defence corrects the batch; nats, >= 0, may be inf",
    "defense/inner_steps": "iterations of the defence's inner loop; count, >= 0",
    "defense/noise_rate": "share of wrong labels in the window of a noisy-label defence, as its mixture has it; in "
    "[0, 1], 0 where the mixture does not separate",
    "defense/mixture_separation": "Ashman's D of the margins of correct and wrong labels there; no unit, >= 0, above 2 "
    "where they part, 0 where the mixture has found other groups",
    "defense/drift": "mean divergence of the model's answers on trusted images from the base model's; nats, >= 0",
    "defense/undone": "the defence took the update back or put the base model back; 1 or 0, of defences that judge",
    "defense/redirected": "l2 norm of what the defence removed from the momentum, as a share of the momentum's; in "
    "[0, 1], of defences that do so",
    "defense/canary_rise": "mean rise of the loss of trusted labelled images in the step; nats",
    "defense/canary_bound": "rise above which the step is taken back; nats, >= 0",
    "defense/rejected": "rows that reached the defence and were kept from the update; fraction in [0, 1]",
    "optim/lr": "learning rate of the update; > 0",
    "optim/grad_norm": "l2 norm of the gradient of the mean loss, before any clipping; >= 0",
    "optim/update_norm": "l2 norm of the change of the weights in this step; >= 0",
    "optim/distance_from_start": "l2 norm of the weights minus the weights at the start; >= 0",
    "audit/auc": "AUC of telling stream members learnt so far from test images never learnt, by the loss; in [0, 1]",
    "audit/auc_burnin": "the same for members of the burn-in; in [0, 1]",
    "dp/epsilon": "privacy spent by DP-SGD on the sample used most, at delta; >= 0, inf where it is not bounded",
    "time/epoch_s": "wall time of an epoch of the burn-in with its evaluation; seconds",
    "time/step_s": "wall time of the whole step; seconds",
    "time/attack_s": "wall time of crafting the poison or the trigger; seconds",
    "time/defense_s": "wall time of the defence before the update; seconds",
    "time/update_s": "wall time of the update; seconds",
    "time/evaluate_s": "wall time of the evaluation after the update; seconds",
}
"""Every scalar tag with its meaning, unit and range. Tags are API: other people's scripts read them."""

FORMER: dict[str, str] = {
    "attack/fired": "attack/trigger_step",
    "optim/drift": "optim/distance_from_start",
    "test/held_out_acc": "test/novel_classes_acc",
}
"""Tags by the names that older runs have recorded them under."""

THIRD_PARTY = "x/"
"""Components of other packages log under this prefix, without asking."""

LAYOUT: dict[str, dict[str, list[str]]] = {
    "accuracy": {
        "test images, on the path of each trigger": ["test/acc"],
        "monitor images, with 95% interval": ["monitor/acc", "monitor/acc_low", "monitor/acc_high"],
    },
    "discrepancy": {
        "memorization discrepancy, clean and sent": ["defense/discrepancy_clean", "defense/discrepancy_sent"],
    },
    "membership": {"AUC": ["audit/auc", "audit/auc_burnin"]},
}
"""Tags that belong in one chart of TensorBoard, by category and chart title; few enough for ten runs at once.

A run has the charts of which it has recorded a tag."""
BANDS = frozenset({"monitor images, with 95% interval"})
"""Charts of a curve with a band: value, lower end, upper end."""


def shown_as(tag: str) -> str:
    """Return what TensorBoard calls a tag: accuracies come first there, "accuracy/test" for "test/acc".

    That on the batch alone and the ends of an interval keep their names: they would stand before that on the test set.
    """
    where, _, name = tag.partition("/")
    words = name.split("_")
    if "acc" not in words or where == "stream" or {"low", "high"} & {*words} or tag not in TAGS:
        return tag
    return "/".join(["accuracy", "_".join([where, *(word for word in words if word != "acc")])])


def tags_markdown() -> str:
    """Return docs/metrics.md."""
    rows = "".join(f"| `{tag}` | {_shown(tag)} | {meaning} |\n" for tag, meaning in TAGS.items())
    return f"""# Metrics

<!-- Generated from accupoison.records.recorder.TAGS; write it anew with
python -c "from accupoison.records.recorder import tags_markdown; print(tags_markdown(), end='')" > docs/metrics.md -->

Every row of `logs/RUN/{METRICS}` is a JSON object with `step` (from 0), `branch` (the trigger that the step belongs
to, or "" before the paths part) and any of the scalars below. A number that is not finite is one of the strings
"nan", "inf" and "-inf"; `accupoison.records.recorder.read_metrics` turns it back into a number. These names do not
change within a major version.

The file is the truth, and TensorBoard a view of it with one entry a run. It has the same scalars, accuracies first
under names of their own; the curve of a tag is that of the run's last trigger from step 0 to the end, and the
accuracies of the other triggers are beside it, such as `accuracy/test@coast`, with the shared steps in each. HPARAMS
has the accuracies after each trigger, before it and at the start, and the settings as they were used; TEXT the
verdict, the threat model and the settings; IMAGES the first rows of a batch, clean, sent, seen and their difference.
[tensorboard.md](tensorboard.md) shows them.

| tag | in TensorBoard | meaning; unit and range |
|---|---|---|
{rows}
Tags that begin with `{THIRD_PARTY}` are free for attacks and defences of other packages.
"""


def _shown(tag: str) -> str:
    return "the same" if shown_as(tag) == tag else f"`{shown_as(tag)}`"


def check_tags(metrics: Mapping[str, float]) -> None:
    """Raise ValueError if a tag is neither in ``TAGS`` nor under ``x/``."""
    if unknown := [tag for tag in metrics if tag not in TAGS and not tag.startswith(THIRD_PARTY)]:
        raise ValueError(f"unknown tag {unknown[0]!r}; add it to recorder.TAGS, or begin it with {THIRD_PARTY!r}")
