"""Words in names and descriptions are found as PostgreSQL's text search compares them, whatever letters they have."""

from __future__ import annotations

from tests.integration.agents import add_agents, names, search
from tests.integration.database import run


def test_words_are_found_whose_stem_is_not_their_beginning(database: str) -> None:
    words = [
        "using", "used", "try", "tries", "fly", "flies", "dry", "drying", "dying", "dies", "lying", "lied", "skies",
        "sky", "icy", "ices", "ages", "aging", "ski", "skis", "ties",
    ]  # fmt: skip
    for word in words:
        add_agents(database, f"agent {word.upper()}", description="x")
        add_agents(database, f"described {word}", description=f"it is {word.upper()}")
    for word in words:
        found = set(names(search(database, None, word, k=100)))
        assert {f"agent {word.upper()}", f"described {word}"} <= found, word
    assert "agent DIES" in names(search(database, None, "dying", k=100))
    assert "agent SKIES" in names(search(database, None, "sky", k=100))


def test_words_of_any_script_are_found(database: str) -> None:
    """As `to_tsvector` compares them; in the text of one agent among more than are read."""
    described = {
        "İngilizce": ["İngilizce", "ingilizce", "INGILIZCE", "i\u0307ngilizce"],
        "DİYARBAKIR İLİ": ["DİYARBAKIR", "ili"],
        "Ｂｏｔ ＡＰＩ": ["ｂｏｔ", "ＡＰＩ"],  # noqa: RUF001
        "НАЛОГОВЫЙ консультант": ["налоговый консультант", "КОНСУЛЬТАНТ"],
        "ΦΟΡΟΛΟΓΙΚΟΣ σύμβουλος": ["φορολογικος", "ΣΎΜΒΟΥΛΟΣ"],
        "Öğretmen": ["öğretmen", "ÖĞRETMEN"],
        "\u212aelvin": ["kelvin", "KELVIN"],
        "Ⅳ Ⓐⓑ Ⱥbc Ꙁꙁ Ꜣꜣ 𐐀𐐨": ["ⅳ", "ⓐⓑ", "ⱥbc", "ꙁꙁ", "ꜣꜣ", "𐐨𐐨"],
        "税務 顧問": ["税務"],
    }
    agents = {text: f"agent with a long name {number}" for number, text in enumerate(described)}
    for text, name in agents.items():
        add_agents(database, name, description=text)
    add_agents(database, *(f"agent number {number}" for number in range(101)), description="asks about anything")
    matches = "SELECT to_tsvector('simple', %s) @@ plainto_tsquery('simple', %s)"
    found, wanted = {}, {}
    for text, queries in described.items():
        for query in queries:
            wanted[query] = [agents[text]] if run(database, matches, text, query)[0][0] else []
            found[query] = names(search(database, None, query))
    assert found == wanted
    assert [] not in (wanted["İngilizce"], wanted["税務"])
