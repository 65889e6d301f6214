"""Which algorithm a command line means."""

import pytest
import yaml

from edp_lightning.command_line.algorithm_choice import choose_algorithm
from edp_lightning.errors import UserError


@pytest.fixture
def file(tmp_path):
    def write(name, **content):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_nothing_named_changes_nothing(file):
    words = ["fit", "--config", file("a", model={"x": 1}), "--model.x", "2", "--trainer.max_steps=3"]
    choice = choose_algorithm(words, "A")
    assert (choice.name, choice.arguments, choice.left_out) == (None, words, [])


@pytest.mark.parametrize("naming", [["--model", "B"], ["--model=B"], ["--model.class_path", "B"], ["--model.class_path=B"]])
def test_a_flag_names_it_and_leaves_the_words(naming):
    choice = choose_algorithm(["fit", *naming, "--model.x=2"], "A")
    assert (choice.name, choice.arguments) == ("B", ["fit", "--model.x=2"])


@pytest.mark.parametrize(
    "section",
    [
        {"class_path": "B", "x": 1, "y": "${data.z}"},
        {"class_path": "package.B", "init_args": {"x": 1, "y": "${data.z}"}},
    ],
)
def test_a_config_names_it_in_either_form(file, section):
    choice = choose_algorithm(["fit", "--config", file("b", model=section, data={"k": 3})], "A")
    assert choice.name == section["class_path"]
    assert yaml.safe_load(choice.arguments[2]) == {"model": {"x": 1, "y": "${data.z}"}, "data": {"k": 3}}


def test_options_for_one_say_nothing_about_another(file):
    first, second, third = (
        file("a", model={"x": 1}, data={"k": 1}),
        file("b", model={"class_path": "B", "x": 2}),
        file("c", model={"x": 3}),
    )
    choice = choose_algorithm(
        ["fit", f"--config={first}", "--config", second, "--config", third, "--config", file("d", data={})], "A"
    )
    assert choice.left_out == [first]
    assert [yaml.safe_load(choice.arguments[i]) for i in (2, 4)] == [{"data": {"k": 1}}, {"model": {"x": 2}}]
    assert choice.arguments[5:7] == ["--config", third]  # it is for B
    assert choose_algorithm(["--config", second, "--config", first, "--model", "A"], "A").left_out == [second, first]


def test_the_default_by_its_full_name_is_the_default(file):
    words = ["fit", "--config", file("a", model={"x": 1}), "--model", "package.A"]
    choice = choose_algorithm(words, "A")
    assert (choice.arguments, choice.left_out) == (words[:3], [])


def test_options_of_the_section_as_a_text_or_a_file_are_no_name(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("{num_critics: 3}", file("options", num_critics=3), "options.yaml"):
        assert choose_algorithm(["fit", "--model", value], "A").arguments == ["fit", "--model", value]


@pytest.mark.parametrize("text", ["model: [", "just text", "- a", ""])
def test_what_is_no_config_is_left_to_the_parser(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    words = ["fit", "--config", str(path), "--config", "/no/such/file.yaml"]
    assert choose_algorithm(words, "A").arguments == words


@pytest.mark.parametrize("content", ["3", "[1, 2]", "text"])
def test_a_section_for_a_command_that_holds_no_options_is_refused(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_text(f"fit: {content}\n")
    with pytest.raises(UserError, match=r"x\.yaml: the section fit must hold options"):
        choose_algorithm(["--config", str(path), "fit"], "A")
