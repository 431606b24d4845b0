"""The README against what stages wrote and what the repository holds."""

import re

from tests.support.closure import ROOT

README = (ROOT / "README.md").read_text()


def test_main_table_is_the_one_that_report_wrote():
    tables = (ROOT / "metrics/tables.md").read_text()
    main = re.search(r"## Main table\n\n(\|.+?)\n\n", tables, re.DOTALL).group(1)
    assert main in README
    introduction = tables.split("\n\n")[1]
    assert introduction in README


def test_every_figure_of_the_results_stands_in_the_tables():
    results = README.split("## Results on the embedded data set")[1].split("\n## ")[0]
    quoted = re.findall(r"[+-]?[0-9]+\.[0-9]+ \[[^]]+\]", results.replace("\n", " "))
    tables = "".join(
        (ROOT / path).read_text()
        for path in ("metrics/tables.md", "metrics/experiments/confirmation/tables.md")
    )
    assert len(quoted) > 50 and not [figure for figure in quoted if figure not in tables]


def test_tree_glosses_every_script_and_module():
    tree = README.split("## The tree")[1].split("##")[0]
    files = {path.name for path in (ROOT / "stages").glob("*.py")} | {
        path.name for path in (ROOT / "stages/common").glob("*.py")
    }
    missing = [name for name in sorted(files - {"__init__.py"}) if name not in tree]
    assert not missing


def test_commands_name_modules_and_parameters_that_exist():
    import yaml

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in re.findall(r"-S ([a-z_.]+)=", README):
        section, name = key.split(".")
        assert name in params[section], key
    for module in re.findall(r"python -m ((?:stages|benchmarks)[a-z_.]*[a-z])", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
