"""``reproduce`` when files are damaged: what is not whole is done again."""

import json
from dataclasses import replace

import pytest
import toy_study

from metalearn_tut.claims.records import record_of, write_record

# Files of jobs

JOB = toy_study.trainings()[0]


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"", b"{", b"null", b"[]", b"3", b'"name"', b"\xff\xfe\x00"),
        *(b"{}", b'{"values": null, "config": null}', b'{"values": [1], "config": {}}'),
    ],
)
def test_a_damaged_record_is_none_and_its_job_is_done_again(tmp_path, damaged):
    write_record(JOB, tmp_path, {"accuracy": [1.0]}, seconds=1)
    (file,) = tmp_path.iterdir()
    assert record_of(JOB, tmp_path)["values"]["values"] == {"accuracy": [1.0]}
    file.write_bytes(damaged)
    assert record_of(JOB, tmp_path) is None


@pytest.mark.parametrize("part", ["name", "values", "seconds", "resumed"])
def test_a_record_without_one_of_its_parts_is_none(tmp_path, part):
    write_record(JOB, tmp_path, {}, seconds=1)
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text("utf-8"))
    del record["values"][part]
    file.write_text(json.dumps(record))
    assert record_of(JOB, tmp_path) is None


def test_a_record_of_another_configuration_under_the_same_name_is_none(tmp_path):
    write_record(JOB, tmp_path, {}, seconds=1)
    (file,) = tmp_path.iterdir()
    other = replace(JOB, config={"seed": 8})
    file.rename(tmp_path / f"{other.key}.json")
    assert record_of(other, tmp_path) is None
