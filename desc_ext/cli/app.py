"""The command line, ``desc-ext``: cluster a data set, apply and evaluate the result, list data sets."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from desc_ext.cli.catalogue import (
    MEASURED,
    check_operator,
    describe,
    method_names,
    methods_table,
    options_table,
)
from desc_ext.cli.errors import plain_errors
from desc_ext.cli.inputs import (
    ArrayOption,
    ColumnsOption,
    DataArgument,
    DataDirOption,
    DownloadOption,
    DropOption,
    HeaderOption,
    IdOption,
    ImageSizeOption,
    LabelsOption,
    TextOption,
    image_size,
    new_data,
    reading_options,
    result_folder,
    shard_bounds,
)
from desc_ext.cli.options_file import as_defaults, naming_the_file, with_settings
from desc_ext.messages import counted

if TYPE_CHECKING:
    from desc_ext.cli.run import Metrics, Run

app = typer.Typer(
    name="desc-ext",
    help="Deep subspace clustering from the command line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
"""The typer application, which tests and other applications call."""


def _print_version(asked: bool) -> None:
    if asked:
        from desc_ext import __version__

        typer.echo(f"desc-ext {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Deep subspace clustering from the command line."""


# A file or pipe has no width of its own: wide enough there that no table is cut.
console = Console(
    highlight=False, width=None if sys.stdout.isatty() else 140, soft_wrap=not sys.stdout.isatty()
)

ResultArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that `desc-ext fit --out` wrote, or a saved model.")
]


def _complete_model(incomplete: str) -> list[str]:
    return [name for name in method_names() if name.startswith(incomplete)]


def _complete_operator(incomplete: str) -> list[str]:
    return [name for names in MEASURED.values() for name in names if name.startswith(incomplete)]


@app.command()
def fit(
    context: typer.Context,
    source: DataArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    clusters: Annotated[
        str,
        typer.Option(metavar="K", help="Number of clusters; auto: found in the spectrum (self-expressive)."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help=f"The method, see `desc-ext models`: {', '.join(method_names())}.",
            autocompletion=_complete_model,
        ),
    ] = "desc",
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same result, on the same machine with the same number of threads."
        ),
    ] = 0,
    preset: Annotated[str | None, typer.Option(help="robust (default where there is one) or paper.")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="scattering: cluster images by their wavelet scattering features; none: as they are."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the clustering stage.")] = None,
    external: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Other data that the method learns from, named as DATA is (lrsc)."),
    ] = None,
    external_labels: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Where a file of external data keeps its classes.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other option of the method, see `desc-ext options MODEL`; may be repeated.",
        ),
    ] = None,
    options_file: Annotated[
        Path | None,
        typer.Option(
            "--options",
            metavar="FILE",
            is_eager=True,
            callback=as_defaults,
            help="JSON or TOML with model, options and reading, such as the config.json of a result; what the command line "
            "says goes first.",
        ),
    ] = None,
    labels: LabelsOption = None,
    columns: ColumnsOption = None,
    drop: DropOption = None,
    id_column: IdOption = None,
    array: ArrayOption = None,
    text: TextOption = None,
    size: ImageSizeOption = None,
    header: HeaderOption = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also run k-means and autoencoder + k-means, and compare.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into DIR though it is not empty.")
    ] = False,
    no_pictures: Annotated[
        bool,
        typer.Option("--no-pictures", help="Draw nothing, neither beside the results nor in the report."),
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    no_embedding: Annotated[
        bool,
        typer.Option("--no-embedding", help="Write no embedding.npy, which of many rows on disk is large."),
    ] = False,
    data_dir: DataDirOption = None,
    download: DownloadOption = False,
) -> None:
    """Clusters DATA and writes labels, latent rows, the model, history, metrics, pictures and a report to DIR.

    Several processes fit one model together under torchrun --nproc-per-node N -m desc_ext fit ...; the first one writes.
    """
    with plain_errors(same_in_all=True):
        describe(model)  # a name that is none needs no torch
    from desc_ext import data
    from desc_ext.cli.lock import locked
    from desc_ext.cli.occupied import check_folder, holds_checkpoint
    from desc_ext.cli.run import STATE, Run
    from desc_ext.cli.settings import check_options, estimator_options, find_model
    from desc_ext.cli.torchrun import check_launch, join_fit, launched

    with plain_errors(same_in_all=True):
        estimator_class = find_model(model)
        chosen = {"clusters": clusters, "random_state": seed, "preset": preset, "epochs": epochs}
        chosen |= {"features": features, "external": external}
        settings = with_settings(context, settings or [])
        options = estimator_options(model, estimator_class, settings, chosen)
        check_options(estimator_class, options)
        check_launch(model)
    with plain_errors(), contextlib.ExitStack() as held:
        launch = held.enter_context(launched())
        if launch.processes.first:
            held.enter_context(locked(out))
            resume = resume or (launch.restarted and holds_checkpoint(out))
            check_folder(out, model, resume, overwrite)
        resume = launch.processes.from_first(lambda: resume)
        reading = reading_options(
            labels=labels, columns=columns, drop=drop, id=id_column, array=array, text=text, image_size=image_size(size),
            header=header, external_labels=external_labels,
        )  # fmt: skip
        with naming_the_file(context):
            dataset = data.load_dataset(
                source, data_dir=data_dir, download=download, external=external, **reading
            )
        if not launch.processes.first:
            join_fit(model, options, dataset, out / "checkpoint" / STATE, resume)
            return
        run = Run(
            out, model, options, dataset, resume=resume, overwrite=overwrite, distributed=launch.together,
            keep_embedding=not no_embedding, reading=reading,
        )  # fmt: skip
        console.print(
            f"{model} on {dataset.name}: {counted(dataset.X.shape[0], 'row')} of {counted(dataset.X.shape[1], 'column')}, "
            f"{'as many clusters as are found' if clusters == 'auto' else counted(int(clusters), 'cluster')}, seed {seed}",
            markup=False,
        )
        try:
            metrics = run.fit()
        except KeyboardInterrupt:
            _say_how_to_resume(run)
            raise typer.Exit(130) from None
        if not no_pictures:
            run.draw()
        if not no_report:
            run.write_report(pictures=not no_pictures)
        if baselines:
            metrics = run.add_baselines()
            if not no_report:
                run.write_report(pictures=not no_pictures)
        _print_result(run, metrics)


def _say_how_to_resume(run: Run) -> None:
    import shlex
    import shutil

    message = Console(stderr=True, highlight=False, soft_wrap=True)
    if not run.keeps_checkpoints:
        message.print(f"interrupted: {run.model} keeps no checkpoints, start again", markup=False)
        return
    if not run.can_resume():
        message.print("interrupted before the first checkpoint: nothing was kept, start again", markup=False)
        return
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
    command = shlex.join([*arguments, "--resume"])
    if run.distributed:
        command = f"torchrun --nproc-per-node N -m desc_ext {command}"
    elif Path(sys.argv[0]).name == "__main__.py":
        command = f"{shlex.quote(sys.executable)} -m desc_ext {command}"
    else:
        on_path = shutil.which("desc-ext") == sys.argv[0]
        command = f"{'desc-ext' if on_path else shlex.quote(sys.argv[0])} {command}"
    message.print(f"interrupted; the last checkpoint is kept. Go on with:\n  {command}", markup=False)


def _print_result(run: Run, metrics: Metrics) -> None:
    if run.dataset.labels is not None:
        console.print(scores_table(metrics, f"{run.dataset.name}, last epoch"))
    console.print(run.sizes(), markup=False)
    console.print(f"results: {run.folder}/ ({', '.join(run.written)})", markup=False)


def scores_table(metrics: Metrics, title: str) -> Table:
    """A table with a row a method: ACC, NMI, ARI and seconds, the best of each score in bold."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    timed = any("seconds" in scores for scores in metrics.values())
    for name in ("ACC", "NMI", "ARI", "seconds")[: 4 if timed else 3]:
        table.add_column(name, justify="right")
    best = {key: max(scores[key] for scores in metrics.values()) for key in ("acc", "nmi", "ari")}
    for method, scores in metrics.items():
        cells = [
            f"[bold]{scores[key]:.3f}[/bold]"
            if scores[key] == best[key] and len(metrics) > 1
            else f"{scores[key]:.3f}"
            for key in best
        ]
        table.add_row(method, *cells, *([f"{scores['seconds']:.1f}"] if timed else []))
    return table


@app.command()
def predict(
    folder: ResultArgument,
    source: DataArgument,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="File for the clusters: .npy, or .csv with id, cluster and confidence."
        ),
    ],
    labels: LabelsOption = None,
    drop: DropOption = None,
    id_column: IdOption = None,
    array: ArrayOption = None,
    text: TextOption = None,
    header: HeaderOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only the I-th of N equal parts of the rows: a part a process, or a machine."
        ),
    ] = None,
    data_dir: DataDirOption = None,
    download: DownloadOption = False,
) -> None:
    """Writes the clusters of DATA under a fitted model."""
    import numpy as np

    from desc_ext.cli import results

    with plain_errors():
        if out.suffix not in (".npy", ".csv"):
            raise ValueError(f"--out must be a .npy or .csv file; got {out}")
        if not out.absolute().parent.is_dir():
            raise ValueError(f"the folder {out.absolute().parent} of --out does not exist")
        folder = result_folder(folder)
        name, estimator = results.load_result(folder)
        results.check_predicts(name, estimator, folder)
        dataset = new_data(
            folder, source, False, labels=labels, drop=drop or (), id=id_column, array=array, text=text, header=header,
            data_dir=data_dir, download=download,
        )  # fmt: skip
        if shard is not None:
            dataset = dataset.part(*shard_bounds(shard, len(dataset.X)))
        results.check_kind(estimator, dataset, source, folder)
        predicted = results.write_predictions(out, estimator, dataset)
        used = int(np.count_nonzero(np.bincount(predicted)))
        console.print(
            f"{out}: {counted(len(predicted), 'label')}, {counted(used, 'cluster')} used", markup=False
        )


@app.command()
def evaluate(
    folder: ResultArgument,
    source: DataArgument,
    labels: LabelsOption = None,
    drop: DropOption = None,
    id_column: IdOption = None,
    array: ArrayOption = None,
    text: TextOption = None,
    header: HeaderOption = None,
    data_dir: DataDirOption = None,
    download: DownloadOption = False,
) -> None:
    """Compares the clusters of DATA under a fitted model with its known classes."""
    from desc_ext.cli import results
    from desc_ext.metrics import clustering_scores

    with plain_errors():
        folder = result_folder(folder)
        dataset = new_data(
            folder, source, True, labels=labels, drop=drop or (), id=id_column, array=array, text=text, header=header,
            data_dir=data_dir, download=download,
        )  # fmt: skip
        if dataset.labels is None:
            raise ValueError(f"{source} comes without known classes; say where they are with --labels")
        name, estimator = results.load_result(folder)
        results.check_predicts(name, estimator, folder)
        results.check_kind(estimator, dataset, source, folder)
        scores = clustering_scores(
            dataset.labels, estimator.predict(results.estimator_input(estimator, dataset))
        )
        console.print(scores_table({name: scores}, f"{dataset.name}: {counted(len(dataset.X), 'row')}"))


@app.command()
def models() -> None:
    """Lists the methods: what each is, its paper, and what it can do."""
    console.print(methods_table())


@app.command("options")
def model_options(
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=_complete_model)] = "desc",
) -> None:
    """Lists the options of a method: values, defaults, meaning, and how each is given to fit."""
    with plain_errors():
        console.print(options_table(model))


@app.command()
def datasets(data_dir: DataDirOption = None) -> None:
    """Lists the known data sets: size, licence, and where each was found."""
    from desc_ext import data

    with plain_errors():
        table = Table(title="known data sets", title_justify="left")
        for column in ("name", "rows", "columns", "classes", "licence", "found in"):
            justify: Literal["right", "left"] = (
                "right" if column in ("rows", "columns", "classes") else "left"
            )
            table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "name")
        missing = False
        for known in data.KNOWN.values():
            found = "scikit-learn" if not known.folders else data.find_folder(known, data_dir)
            missing |= found is None
            table.add_row(
                known.name, f"{known.n:,}", str(known.n_columns), str(len(known.class_names)), known.licence,
                "-" if found is None else str(found),
            )  # fmt: skip
        console.print(table)
        if missing:
            looked = ", ".join(map(str, data.data_folders(data_dir)))
            console.print(
                f"- : not in {looked}. Name the folder above the idx files with --data-dir or DESC_EXT_DATA, "
                "or let fit fetch them: --download",
                markup=False,
            )


@app.command()
def info(data_dir: DataDirOption = None) -> None:
    """Prints versions, compiler, instruction sets, CUDA, threads and data folders."""
    from desc_ext.info import format_info

    with plain_errors():
        console.print(format_info(data_dir), markup=False)


@app.command()
def bench(
    operator: Annotated[
        str | None,
        typer.Argument(
            metavar="OPERATOR",
            help="One operator; without, a handful in about a minute. By the numbers of their shapes: "
            + "; ".join(f"{sizes}: {', '.join(names)}" for sizes, names in MEASURED.items())
            + ".",
            autocompletion=_complete_operator,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Its shape, such as 20000,128,100,8 where it is n,p,K,d: n rows, p columns, K subspaces or centroids, d "
            "dimensions of each; OPERATOR says which of them an operator has.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch (as many as it takes by itself).")
    ] = None,
    no_compile: Annotated[bool, typer.Option("--no-compile", help="Leave torch.compile out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the machine's description.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the roofline and the ratios into this .png.")
    ] = None,
) -> None:
    """Measures the operators on this machine beside eager torch and torch.compile, and what the machine can do at most."""
    with plain_errors():
        if operator is not None:
            check_operator(operator)  # a name that is none needs no torch
    from desc_ext.cli import speed

    with plain_errors():
        if plot is not None and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
            raise ValueError(f"--plot must be a .png file in a folder that exists; got {plot}")
        report = speed.measure(operator, shape, dtype, device, threads, compiled=not no_compile)
        speed.show(report, console, as_json, plot)


def main() -> None:
    """Entry point of ``desc-ext``."""
    app()
