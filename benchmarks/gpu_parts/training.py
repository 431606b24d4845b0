"""The LSTMs at the sizes of Moments in Time: the training loop, and ways of training several seeds.

The trainings of a condition differ by seed and fold alone.  They are small, so that the gaps
between the device's kernels count: some ways share them among seeds, CUDA graphs leave them out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from audio_from_video.classification.networks import ActionClassifier, ClassifierSizes
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.generation.generator import generator_sizes
from audio_from_video.generation.networks import AudioGenerator, generation_loss
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.loop import fit
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime import parallel, params
from audio_from_video.storage.row_file import RowFile
from benchmarks.gpu_parts import inputs
from benchmarks.gpu_parts.batched_lstm import BatchedGenerators
from benchmarks.gpu_parts.inputs import STEPS
from benchmarks.gpu_parts.measuring import (
    Measurement,
    Setup,
    peak_memory_gib,
    reset_peak_memory,
    seconds_per_call,
)

PART = "training"
SEEDS = 5  # of a condition, in params/moments_in_time.yaml
ACTIONS = 20
MAX_GRADIENT_NORM = 1.0
BACKWARD = 3.0  # operations of a training step, relative to the forward pass


@dataclass(frozen=True)
class Work:
    """What is trained: the generator or the classifier, on features in files of rows."""

    kind: str
    device: str
    video: RowFile
    audio: RowFile
    generator: GeneratorParams
    classifier: ClassifierParams

    @property
    def p(self) -> TrainingParams:
        """The settings of its training."""
        return self.generator.lstm if self.kind == "generator" else self.classifier.lstm

    def model(self, seed: int) -> nn.Module:
        """Return a network of random weights on the device."""
        torch.manual_seed(seed)
        video_width = self.video.shape[-1]
        audio_width = self.audio.shape[-1]
        if self.kind == "generator":
            sizes = generator_sizes(self.generator.lstm, video_width, audio_width)
            return AudioGenerator(sizes).to(self.device)
        net = self.classifier.lstm
        return ActionClassifier(
            ClassifierSizes(
                video_width, audio_width, ACTIONS, net.hidden, net.projection, net.dropout, STEPS
            )
        ).to(self.device)

    def loss(self, model: nn.Module, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Return the loss of features [B, T, V] and [B, T, A]; of several generators their sum."""
        if self.kind == "generator":
            predicted = model(video)
            if predicted.ndim == 3:
                return generation_loss(predicted, audio, 1.0, 0.2)
            losses = [
                generation_loss(*pair, 1.0, 0.2) for pair in zip(predicted, audio, strict=True)
            ]
            return torch.stack(losses).sum()
        has_audio = torch.ones(len(video), dtype=torch.bool, device=video.device)
        labels = torch.zeros(len(video), dtype=torch.long, device=video.device)
        return cross_entropy(model(video, audio, has_audio), labels)


Step = Callable[[], object]
Maker = Callable[[Work, int], Step]


def measure(setup: Setup) -> None:
    """Record the loop as stages run it, and ways of taking its steps."""
    # As the stages that train do: imported once in the server, not in every worker.
    parallel.start_server("benchmarks.gpu_parts.training", "torch._dynamo")
    settings = inputs.write_params(setup.tiny)
    if setup.tiny:
        for section in ("generator", "classifier"):
            settings[section]["lstm"] |= {"hidden": 8, "projection": 8}
        inputs.store_params(settings)
    video, audio = write_rows(setup)
    networks = (
        params.load("generator", GeneratorParams),
        params.load("classifier", ClassifierParams),
    )
    works = [
        Work(kind, setup.device, video, audio, *networks) for kind in ("generator", "classifier")
    ]
    for work in works:
        setup.attempt(PART, alone(work), partial(loop_alone, setup, work))
        for batch in setup.batches((work.p.batch_size, 256), (4,)):
            steps(setup, work, batch, ways(work))
    for work in works:
        what = together(setup, work)
        setup.attempt(PART, what, partial(loops_together, setup, work))
    if setup.device == "cuda":
        # Last: an error in a graph ends the process.
        for work in works:
            steps(setup, work, work.p.batch_size, [on_streams_as_graphs()])


def write_rows(setup: Setup) -> tuple[RowFile, RowFile]:
    """Write video and audio features of clips as training reads them."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for name, width in (("video", setup.count(2 * 768, 16)), ("audio", setup.count(128, 4))):
        shape = (STEPS, width)
        clips = range(setup.count(2048, 8))
        rows = (torch.randn(shape, generator=generator).numpy() for _ in clips)
        files.append(RowFile(Path(name).absolute(), shape).write(rows))
    return files[0], files[1]


def flops_of_training(work: Work) -> float:
    """Return the operations that a clip takes in training; those of an LSTM from its weights."""
    model = work.model(0)
    weights = sum(value.numel() for value in model.parameters() if value.ndim > 1)
    return BACKWARD * 2.0 * STEPS * weights


def train(task: tuple[Work, int]) -> int:
    """Run one epoch of the loop that all trainings share, as a stage's worker does.

    Returns how many clips passed.
    """
    work, seed = task
    parallel.one_thread()
    model = work.model(seed)

    def loss(clip_indices: torch.Tensor) -> torch.Tensor:
        video = work.video.read(clip_indices.tolist()).to(work.device)
        audio = work.audio.read(clip_indices.tolist()).to(work.device)
        return work.loss(model, video, audio)

    indices = torch.arange(len(work.video))
    # `min_steps` would ask for more epochs.
    p = work.p.model_copy(update={"epochs": 1, "min_steps": 1})
    curve = fit(model, loss, indices, lambda: 0.0, p, seed, "benchmark")
    return len(curve) * len(indices)


def alone(work: Work) -> str:
    """Return the name of the loop with one seed."""
    return f"{work.kind}, the training loop, one seed, batches of {work.p.batch_size}"


def loop_alone(setup: Setup, work: Work) -> Measurement:
    """Run the loop in this process."""
    reset_peak_memory(setup.device)
    seconds = seconds_per_call(lambda: train((work, 0)), setup.device, warm_ups=1)
    peak = peak_memory_gib(setup.device)
    flops = flops_of_training(work)
    return Measurement(PART, alone(work), "clips", len(work.video), seconds, flops, peak)


def together(setup: Setup, work: Work) -> str:
    """Return the name of the loop with several seeds."""
    return f"{work.kind}, the training loop, {setup.count(SEEDS, 2)} seeds at once in processes"


def loops_together(setup: Setup, work: Work) -> Measurement:
    """Run the loop in processes, as the stages do.

    The second of two trainings of each process counts: the first has its start in it.
    """
    seeds = setup.count(SEEDS, 2)
    tasks = [(work, seed) for seed in range(seeds)]
    slowest = max(parallel.map_items(train_twice, tasks, seeds))
    clips = seeds * len(work.video)
    return Measurement(
        PART, together(setup, work), "clips", clips, slowest, flops_of_training(work)
    )


def train_twice(task: tuple[Work, int]) -> float:
    """Train twice; return the seconds of the second time."""
    return seconds_per_call(lambda: train(task), task[0].device, least_s=0.0, warm_ups=1)


def steps(setup: Setup, work: Work, batch: int, trials: list[tuple[str, int, Maker]]) -> None:
    """Record ways of taking steps with batches of this size."""
    flops = flops_of_training(work)
    for name, seeds, make in trials:
        what = f"{work.kind}, {name}, batches of {batch}"

        def run(what: str = what, seeds: int = seeds, make: Maker = make) -> Measurement:
            reset_peak_memory(setup.device)
            step = make(work, batch)
            seconds = seconds_per_call(step, setup.device, warm_ups=3)
            peak = peak_memory_gib(setup.device)
            return Measurement(PART, what, "clips", seeds * batch, seconds, flops, peak)

        setup.attempt(PART, what, run)


def ways(work: Work) -> list[tuple[str, int, Maker]]:
    """Return ways of taking steps: name, number of seeds, and what makes a step's function."""
    found: list[tuple[str, int, Maker]] = [
        ("a step", 1, lambda work, batch: step_of(work, work.model(0), (batch,)))
    ]
    on_gpu = work.device == "cuda"
    if on_gpu:
        found.append(("a step as CUDA graph", 1, graph_of_one))
        found.append((f"a step, {SEEDS} seeds on a stream each", SEEDS, on_streams))
    if work.kind == "generator":
        found.append((f"a step, {SEEDS} seeds as one network", SEEDS, batched))
        if on_gpu:
            found.append(
                (f"a step as CUDA graph, {SEEDS} seeds as one network", SEEDS, graph_of_batched)
            )
    return found


def on_streams_as_graphs() -> tuple[str, int, Maker]:
    """Return the way that has a CUDA graph and a stream per seed."""
    return f"a step as CUDA graph, {SEEDS} seeds on a stream each", SEEDS, graphs_on_streams


def step_of(work: Work, model: nn.Module, shape: tuple[int, ...]) -> Step:
    """Return a training step on features that lie on the device; shape: of clips, [S, B] or [B]."""
    video = torch.randn(*shape, *work.video.shape, device=work.device)
    audio = torch.randn(*shape, *work.audio.shape, device=work.device)
    capturable = work.device == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, capturable=capturable)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        work.loss(model, video, audio).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()

    return step


def graph_of(step: Step) -> Step:
    """Return a step's kernels as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(held: Step = step) -> None:
        """Replay the graph; it reads the memory of the step, which must not be freed."""
        graph.replay()

    return replay


def graph_of_one(work: Work, batch: int) -> Step:
    """Return the step of one seed as CUDA graph."""
    return graph_of(step_of(work, work.model(0), (batch,)))


def on_streams(work: Work, batch: int) -> Step:
    """Return the steps of several seeds, launched one after the other onto streams of their own."""
    steps = [step_of(work, work.model(seed), (batch,)) for seed in range(SEEDS)]
    return _launch(steps)


def graphs_on_streams(work: Work, batch: int) -> Step:
    """Return the same with each step as CUDA graph."""
    steps = [graph_of(step_of(work, work.model(seed), (batch,))) for seed in range(SEEDS)]
    return _launch(steps)


def _launch(steps: list[Step]) -> Step:
    streams = [torch.cuda.Stream() for _ in steps]
    torch.cuda.synchronize()

    def launch() -> None:
        for step, stream in zip(steps, streams, strict=True):
            with torch.cuda.stream(stream):
                step()

    return launch


def batched(work: Work, batch: int) -> Step:
    """Return the step of several generators that are one network."""
    generators = [work.model(seed) for seed in range(SEEDS)]
    return step_of(work, BatchedGenerators(generators).to(work.device), (SEEDS, batch))


def graph_of_batched(work: Work, batch: int) -> Step:
    """Return the same as CUDA graph."""
    return graph_of(batched(work, batch))
