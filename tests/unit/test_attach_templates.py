"""Templates: placeholders become SQL, and nothing in a mapping becomes more than a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from realtime.attach import templates as attach_templates
from realtime.attach.mapping import PlatformMapping, read_mapping
from realtime.attach.templates import TemplateError, quoted, render, render_all
from tests.unit.test_mapping import mapping

SQL = attach_templates.TEMPLATES


def rendered(text: str, with_mapping: PlatformMapping, folder: Path) -> str:
    (folder / "messages.sql").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attach_templates, "TEMPLATES", folder)
        return render("messages", with_mapping, {("messages", "role"): "{}::text"})


def test_the_reference_tables_read_as_a_person_would_write_them() -> None:
    """No quotes, no casts, no placeholder left over."""
    sql = render_all(read_mapping(), {})
    assert "{{" not in sql
    plain = re.sub(r"'[^']*'|COLLATE \"C\"", "", re.sub(r"--.*", "", sql))
    assert '"' not in plain
    looked_up = 'u.username COLLATE "C" FROM public.users AS u WHERE u.id = n.user_id LIMIT 1)'
    assert f"(SELECT {looked_up}" in sql
    assert "CREATE TRIGGER relay_insert AFTER INSERT ON public.messages" in sql
    assert "a.attname <> ALL (ARRAY['updated_by', 'updated_at'])" in sql


def test_every_template_is_rendered() -> None:
    """No file lies there for nothing."""
    names = {path.stem for path in SQL.glob("*.sql")}
    assert names == {*attach_templates.ALWAYS, *attach_templates.OPTIONAL}


def test_placeholders(tmp_path: Path) -> None:
    """Tables, columns of rows and of other tables, what there is none of, and literals."""
    adopted = mapping(
        'documents = false\n[messages]\nschema = "My App"\ntable = "order"\nsession_id = false\n'
        'content = "the ""text"""\n[users]\nis_active = false\n[permissions]\nowner_role = "O\'N"'
        "\n[bots]\nupdated_by = false\nuntold = []".replace('""', '\\"')
    )
    template = (
        "{{messages}} {{n.content}} {{o.role}} {{n.session_id}} {{u.username}} {{u.is_active}}"
        " {{documents}} {{owner_role}} {{untold}}"
    )
    assert rendered(template, adopted, tmp_path) == (
        '"My App"."order" n."the ""text""" COLLATE "C" o.role::text COLLATE "C" NULL::uuid'
        ' u.username COLLATE "C" true'
        " (SELECT NULL::xid AS xmin, NULL::xid AS xmax WHERE false) 'O''N' '{}'::text[]"
    ).replace('"the ""text"""', '"the ""text"""')


@pytest.mark.parametrize("wrong", ["{{nothing}}", "{{n.nothing}}", "{{x.id}}", "{{d.id}}"])
def test_a_placeholder_for_nothing_is_an_error(wrong: str, tmp_path: Path) -> None:
    """A typing error in a template must not reach a database."""
    with pytest.raises(TemplateError, match=re.escape(wrong)):
        rendered(wrong, read_mapping(), tmp_path)


@pytest.mark.parametrize(
    "name", ["user", "Users", 'a"b', "a; DROP TABLE x", "{{users}}", "n.id", "ä", "1a", "$1"]
)
def test_any_other_name_is_quoted(name: str) -> None:
    """Whatever it holds, it is one identifier."""
    assert quoted(name) == '"' + name.replace('"', '""') + '"'


def test_a_name_that_looks_like_a_placeholder_stays_a_name(tmp_path: Path) -> None:
    """What was filled in is not read again."""
    adopted = mapping('[messages]\ncontent = "{{users}}"')
    assert rendered("{{n.content}}", adopted, tmp_path) == 'n."{{users}}" COLLATE "C"'


def test_no_template_compares_with_a_bare_null() -> None:
    """Where transform_null_equals is on, `role = NULL` would be true for a row without a role."""
    nothing = "\n".join(
        f"[{table}]\n"
        + "\n".join(f"{key} = false" for key, column in columns.items() if not column.is_needed)
        for table, columns in attach_templates.COLUMNS.items()
    ).replace("[permissions]", "[permissions]\nowner_role = false")
    assert not re.findall(r"<?[=>] *NULL(?!::)", render_all(mapping(nothing), {}))
