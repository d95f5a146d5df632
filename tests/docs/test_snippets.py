"""Python in README.md and docs/ runs, page by page, and prints what the comments beside `print` say."""

import re

import pytest

from tests.docs.conftest import save_adapters
from tests.docs.pages import PAGES, blocks

SNIPPETS = {
    page: [block for block in blocks(page) if block.language == "python"]
    for page in PAGES
    if any(block.language == "python" for block in blocks(page))
}


@pytest.fixture
def given(tmp_path, tiny):
    """By page: makes the files that its snippets take for granted, and gives the texts that are put in place of others."""

    def readme():
        return {"500, 768": "50, 96", "500, 1024": "50, 128"}

    def hub():
        save_adapters(tmp_path / "my-adapters", ("one", "two"), tiny)
        (tmp_path / "my-model").symlink_to(tiny)
        return {}

    def tutorial():
        from tests.run.made_up_study import make_study

        folder = make_study(tmp_path / "studies" / "demo", tasks=("arithmetic", "capital_city", "short_posts"))
        (folder / "results" / "cka_by_layer.csv").write_text("pair,layer,mean\nE | C,block 1,0.9\n")
        return {}

    return {"README.md": readme, "docs/tutorial.md": tutorial, "docs/how-to/adapters-from-the-hub.md": hub}


@pytest.mark.everyday_cases(2)
@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page, tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    replaced = given.get(page, dict)()
    for block in SNIPPETS[page]:
        text = block.text
        for old, new in replaced.items():
            text = text.replace(old, new)
        capsys.readouterr()
        exec(compile("\n" * block.line + text, PAGES[page], "exec"), names)
        said = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
        promised = re.findall(r"^print\(.*\)  # (.+)$", text, re.MULTILINE)
        if promised:
            assert len(said) == len(promised), f"{page}, line {block.line}: {said}"
            for line, promise in zip(said, promised, strict=True):
                assert same(line, promise), f"{page}, line {block.line}: {line!r}, and the page says {promise!r}"
    if page == "README.md":
        assert names["similarity"].shape == (12, 24)
    if page == "docs/how-to/adapters-from-the-hub.md":
        assert names["out"].states.shape[:3] == (4, 2, 1)  # two blocks, two adapters
    if page == "docs/tutorial.md":
        assert names["one"].dims == ("layer_a", "layer_b")


def same(line, promise) -> bool:
    """Equal texts, but for numbers that differ by one in the last digit that the page gives."""
    number = r"-?\d+\.?\d*"
    if re.sub(number, "#", line.replace("-", "")) != re.sub(number, "#", promise.replace("-", "")):
        return False
    pairs = zip(re.findall(number, line), re.findall(number, promise), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * 10.0 ** -len(b.partition(".")[2]) * ("." in b) for a, b in pairs)


def test_numbers_are_compared():
    assert same("0.81 True", "0.80 True")
    assert same("-0.00", "0.00")
    assert not same("0.83", "0.80")
    assert not same("3", "2")
    assert not same("True", "False")
