"""Write the list of clips that models are fitted on, for `clips.fit_on` in params.yaml.

python -m tools.fit_list fit_on.csv        # the clips of data/clips.parquet, as they are now
dvc exp run -S clips.fit_on=fit_on.csv     # clips that come later change no model

Commit the list with params.yaml. To fit all models anew, on the new clips, too, run the command
again, with clips.fit_on still named.
"""

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from audio_from_video.clipset import fit_list
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout, shards


def present_clips() -> pa.Table:
    """Return the list's rows of the clips with status `ok`, ordered by clip_id.

    Raises UserError where the clips have not been scanned yet.
    """
    if not layout.CLIPS.is_file():
        raise UserError(f"{layout.CLIPS} is missing: run `dvc repro clips`")
    rows = [row for row in shards.read_table(layout.CLIPS).to_pylist() if row["status"] == "ok"]
    rows.sort(key=lambda row: row["clip_id"])
    schema = pa.schema([(name, pa.string()) for name in fit_list.COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", type=Path, help="file to write: .csv or .parquet")
    arguments = parser.parse_args()
    try:
        table = present_clips()
        if arguments.list.suffix == ".parquet":
            pq.write_table(table, arguments.list)
        else:
            pa.csv.write_csv(table, arguments.list)
        listed = fit_list.read(str(arguments.list))
    except (UserError, OSError) as error:
        sys.exit(f"fit_list: error: {printable(str(error))}")
    print(f"{arguments.list}: {len(table)} clips, digest {listed.digest}")


if __name__ == "__main__":
    main()
