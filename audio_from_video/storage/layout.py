"""Where every output lies, relative to the repository.

tests/storage/test_layout.py holds it against dvc.yaml.
"""

from pathlib import Path

DATA = Path("data")
MODELS = Path("models")
METRICS = Path("metrics")

CODE = DATA / "code"  # digests of what each stage runs
SAMPLE = DATA / "sample"
TINY_MODELS = MODELS / "tiny"

CLIPS = DATA / "clips.parquet"
FIT_ON = DATA / "fit_on.parquet"
MISSING_AUDIO = DATA / "missing_audio.parquet"
TRUTH = DATA / "truth.parquet"  # read by clipset/truth.py alone
FRAMES = DATA / "frames"
OPTICAL_FLOW = DATA / "optical_flow"
AUDIO = DATA / "audio"
RGB_FEATURES = DATA / "video_features/rgb"
FLOW_FEATURES = DATA / "video_features/flow"
VIDEO_FEATURES = (RGB_FEATURES, FLOW_FEATURES)
AUDIO_FEATURES = DATA / "audio_features"
AUDIO_PROJECTION = MODELS / "audio_projection.safetensors"

DICTIONARY = DATA / "dictionary.parquet"
DICTIONARY_EMBEDDINGS = DATA / "dictionary_embeddings.safetensors"
REPRESENTATIVE_FRAMES = DATA / "representative_frames"
CAPTIONS = DATA / "captions"
CAPTION_MODEL = MODELS / "captions"
LABEL_AUDIO = DATA / "label_audio"
LABEL_AUDIO_FEATURES = LABEL_AUDIO / "features.safetensors"
LABEL_AUDIO_LABELS = LABEL_AUDIO / "labels.parquet"
MAPPING = DATA / "mapping"
LOG_MELS = DATA / "log_mels"
PREDICTIONS = DATA / "predictions"
MISSING_RATES = DATA / "missing_rates"
LABEL_PREDICTOR = MODELS / "label_predictor"
BUNDLE = MODELS / "bundle"

FIGURES = METRICS / "figures"
SAMPLE_FIGURE = FIGURES / "sample.png"
REPRESENTATIVE_FRAMES_FIGURE = FIGURES / "representative_frames.png"
MEL_FIGURE = FIGURES / "mel.png"
REPORT_FIGURES = FIGURES / "report"
REPORT_PAGE = METRICS / "report.html"
TABLES = METRICS / "tables"
TABLES_PAGE = METRICS / "tables.md"
README_TABLE = TABLES / "readme.md"
RESULTS_PAGE = Path("docs/results.md")
SUBSETS = METRICS / "subsets.csv"
EXPERIMENTS = METRICS / "experiments"
CONFIRMATION = EXPERIMENTS / "confirmation"
LABEL_BUDGET = EXPERIMENTS / "label_budget.csv"
DOSE = EXPERIMENTS / "dose.csv"


def generated(architecture: str) -> Path:
    """Generated audio features, a row per clip."""
    return DATA / "generated" / architecture


def generator_model(architecture: str) -> Path:
    """Weights of a generator's trainings."""
    return MODELS / "generator" / architecture


def generator_curves(architecture: str) -> Path:
    """Losses of a generator's trainings by epoch."""
    return METRICS / "plots/generator" / f"{architecture}.csv"


def predicted_labels(architecture: str) -> Path:
    """AudioSet label scores of generated audio, a row per clip."""
    return DATA / "predicted_labels" / architecture


def decisions(architecture: str) -> Path:
    """Decisions of the feature filter on an architecture's audio, a row per clip."""
    return DATA / "filter" / f"{architecture}.parquet"


def filter_sweep(architecture: str) -> Path:
    """Figures of the feature filter by threshold."""
    return METRICS / "plots/filter" / f"{architecture}.csv"


def classifier_model(condition: str) -> Path:
    """Weights of a condition's trainings."""
    return MODELS / "classifier" / condition


def classifier_plot(kind: str, condition: str) -> Path:
    """A plot's data of a condition; kind: loss or confusion."""
    return METRICS / "plots" / kind / f"{condition}.csv"


def predictions(condition: str) -> Path:
    """Probabilities of the actions by a condition's classifiers, a row per seed and clip."""
    return PREDICTIONS / f"{condition}.parquet"


def missing_rates(condition: str) -> Path:
    """A condition's hits at each share of test clips without audio."""
    return MISSING_RATES / f"{condition}.parquet"


def metrics(stage: str, item: str = "") -> Path:
    """Metrics file of a stage, or of one of its items."""
    return METRICS / f"{stage}/{item}.json" if item else METRICS / f"{stage}.json"
