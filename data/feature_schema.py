"""The feature schema: vocabularies and their codes.

Items, categories, brands, tokens and item attributes come from the item list, which has no times. Context and
profile vocabularies come from checkouts before the start of validation, so that codes do not depend on later
data.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.io import engine, lists
from data.tables import title_vectors
from data.tables.encoded_tables import EncodedTables
from data.tables.item_vectors import VectorColumn

WORD_SEPARATOR = r"[^\p{L}\p{N}]+"  # between the words of a title

TITLE_VECTOR = "_title"  # in `item_vectors`; no column of a shop may have this name
ATTRIBUTE_GROUPS = ("context", "profile", "item_attributes")  # fields of FeatureSchema


@dataclass(frozen=True)
class Attribute:
    """An attribute of a checkout, a user or an item: categorical with `values`, numeric with `edges`."""

    name: str
    values: list[str] | None = None  # code = position + 1; 0 for missing or unknown
    edges: list[float] | None = None  # code = 1 + number of edges ≤ x; 0 for missing

    @property
    def cardinality(self) -> int:
        """Number of codes, 0 included."""
        return len(self.values) + 1 if self.values is not None else len(self.edges or []) + 2


@dataclass(frozen=True)
class FeatureSchema:
    """The content of `schema.json`. A code is a value's position + 1; code 0 stands for unknown values."""

    items: int  # N, without the unknown item
    max_history: int
    category_levels: int
    categories: list[str]
    brands: list[str]
    tokens: list[str]
    token_idf: list[float]
    context: list[Attribute]
    profile: list[Attribute]
    item_attributes: list[Attribute] = field(default_factory=list)
    item_vectors: list[VectorColumn] = field(default_factory=list)
    version: int = 1

    @property
    def content_dim(self) -> int:
        """E: the total length of an item's vectors."""
        return sum(vector.dim for vector in self.item_vectors)

    @property
    def listed_vectors(self) -> list[VectorColumn]:
        """The vectors that are columns of the item list."""
        return [vector for vector in self.item_vectors if vector.name != TITLE_VECTOR]

    @property
    def title_dim(self) -> int:
        """Length of the title's vector, the last of `item_vectors`. 0 without such a vector."""
        return sum(vector.dim for vector in self.item_vectors if vector.name == TITLE_VECTOR)

    def table_sizes(self) -> dict[str, Any]:
        """Sizes of embedding tables, the unknown code included, and `category_levels`."""
        return {
            "items": self.items + 1,
            "categories": len(self.categories) + 1,
            "category_levels": self.category_levels,
            "brands": len(self.brands) + 1,
            "tokens": len(self.tokens) + 1,
            "context": [a.cardinality for a in self.context],
            "profile": [a.cardinality for a in self.profile],
            "item_attributes": [a.cardinality for a in self.item_attributes],
            "content_dim": self.content_dim,
        }

    def to_json(self) -> dict[str, Any]:
        out = asdict(self)
        for group in ATTRIBUTE_GROUPS:
            out[group] = [{k: v for k, v in a.items() if v is not None} for a in out[group]]
        out["item_vectors"] = [vector._asdict() for vector in self.item_vectors]
        return out

    @staticmethod
    def from_json(data: dict[str, Any]) -> "FeatureSchema":
        """The schema that `to_json` wrote.

        A schema of an earlier release has no item attributes and no vectors.
        """
        groups = {g: [Attribute(**a) for a in data.get(g, [])] for g in ATTRIBUTE_GROUPS}
        vectors = [VectorColumn(**vector) for vector in data.get("item_vectors", [])]
        return FeatureSchema(**{**data, **groups, "item_vectors": vectors})

    @staticmethod
    def load(folder: str | Path) -> "FeatureSchema":
        """Reads `schema.json` of a prepared folder."""
        return FeatureSchema.from_json(json.loads((Path(folder) / "schema.json").read_text()))


def build_schema_and_items(
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    validation_start: int,
    cfg: dict[str, Any],
    vectors: Sequence[VectorColumn] = (),
) -> tuple[FeatureSchema, pa.Table]:
    """The schema, and `items.parquet` as a table without `content`, the column of the vectors.

    Without a checkout before `validation_start` (Unix seconds), context and profile vocabularies are empty.
    `cfg` is the features config, `vectors` are the vector columns of the item list. Raises DataError for a
    `cfg.title_encoder` that cannot be used.
    """
    title_dim = title_vectors.title_dim(cfg)
    titles = [VectorColumn(TITLE_VECTOR, title_dim)] if title_dim else []
    levels = int(cfg["category_levels"])
    items = engine.materialize(con, "item_paths", _add_category_paths(encoded.items, levels))
    prefixes = [items.select(path=items[f"path_{k}"]) for k in range(levels)]
    category = ibis.union(*prefixes, distinct=True) if levels > 1 else prefixes[0].distinct()
    categories = sorted(_column(con, category.filter(category.path.notnull()), "path"))
    brand = items.filter(items.brand.notnull()).group_by("brand").agg(n=ibis._.count())
    brand = brand.order_by(brand.n.desc(), brand.brand).limit(int(cfg["brands"]))
    brands = sorted(_column(con, brand, "brand"))
    n_items = int(con.execute(items.count()))
    tokens, idf = _tokens(con, _word_counts(con, items), n_items, cfg)

    checkouts = encoded.checkouts.filter(encoded.checkouts.ts < validation_start)
    users = encoded.users.semi_join(checkouts, "user")
    listed = encoded.items.filter(encoded.items.listed)
    schema = FeatureSchema(
        items=n_items,
        max_history=int(cfg["max_history"]),
        category_levels=levels,
        categories=categories,
        brands=brands,
        tokens=tokens,
        token_idf=idf,
        context=[_fit_attribute(con, checkouts, f"context_{c}", c, cfg) for c in encoded.context_names],
        profile=[_fit_attribute(con, users, f"profile_{c}", c, cfg) for c in encoded.profile_names],
        item_attributes=[
            _fit_attribute(con, listed, f"attribute_{c}", c, cfg) for c in encoded.item_attribute_names
        ],
        item_vectors=[*vectors, *titles],
    )
    codes = encode_items(con, encoded.items, schema, int(cfg["tokens_per_item"]))
    return schema, _item_table(con, encoded, codes, schema)


def _column(con: ibis.BaseBackend, table: ir.Table, name: str) -> list[Any]:
    return con.to_pyarrow(table.select(name))[name].to_pylist()


def _add_category_paths(items: ir.Table, levels: int) -> ir.Table:
    """Add `path_0 … path_{levels-1}`, the prefixes of the category path, null if the path is shorter.

    The last one is the whole path, so that leaves deeper than `levels` stay distinct.
    """
    parts = items.category.split("/").map(lambda s: s.strip()).filter(lambda s: s != "")
    t = items.mutate(parts=parts)
    paths = {
        f"path_{k}": ibis.ifelse(
            t.parts.length() > k,
            (t.parts if k == levels - 1 else t.parts[: k + 1]).join("/"),
            ibis.null("string"),
        )
        for k in range(levels)
    }
    return t.mutate(**paths).drop("parts")


def _word_counts(con: ibis.BaseBackend, items: ir.Table) -> ir.Table:
    """Counts each word of an item's title and description: `item, word, tf`."""
    text = items.title.fill_null("") + ibis.literal(" ") + items.description.fill_null("")
    words = items.select("item", word=text.lower().re_split(WORD_SEPARATOR).unnest())
    words = words.filter(words.word != "").group_by("item", "word").agg(tf=ibis._.count())
    return engine.materialize(con, "item_words", words)


def _tokens(
    con: ibis.BaseBackend, words: ir.Table, n_items: int, cfg: dict[str, Any]
) -> tuple[list[str], list[float]]:
    """The vocabulary with the words' idf, from the `_word_counts` of `n_items` items."""
    df = words.group_by("word").agg(df=ibis._.count())
    df = df.filter(df.df >= int(cfg["token_min_items"]))
    vocabulary = con.to_pyarrow(df.order_by(df.df.desc(), df.word).limit(int(cfg["tokens"])))
    idf = [round(math.log((1 + max(n_items, 1)) / (1 + n)) + 1, 6) for n in vocabulary["df"].to_pylist()]
    return vocabulary["word"].to_pylist(), idf


def _token_lists(
    con: ibis.BaseBackend, words: ir.Table, schema: FeatureSchema, tokens_per_item: int
) -> ir.Table:
    """Each item's tokens of highest TF-IDF: `item, tokens, token_weights` (unit norm)."""
    vocabulary = ibis.memtable(
        pa.table(
            {
                "word": pa.array(schema.tokens, pa.string()),
                "token": pa.array(range(1, len(schema.tokens) + 1), pa.int32()),
                "idf": pa.array(schema.token_idf, pa.float64()),
            }
        )
    )
    bag = words.join(vocabulary, "word").mutate(weight=ibis._.tf * ibis._.idf)
    rank = ibis.row_number().over(group_by="item", order_by=[bag.weight.desc(), bag.token])
    bag = bag.mutate(rank=rank)
    bag = bag.filter(bag.rank < tokens_per_item)
    norm = (bag.weight * bag.weight).sum().over(group_by="item").sqrt()
    bag = bag.mutate(weight=bag.weight / norm)
    bag = bag.mutate(weight=bag.weight.cast("float32"))
    columns = {"tokens": "token", "token_weights": "weight"}
    return engine.materialize(con, "item_tokens", lists.collect_lists(bag, "item", columns, ["token"]))


def _fit_attribute(
    con: ibis.BaseBackend, t: ir.Table, column: str, name: str, cfg: dict[str, Any]
) -> Attribute:
    """The attribute of a column: categorical for strings and integers with few values, else numeric."""
    value, limit = t[column], int(cfg["attribute_values"])
    is_integer = value.type().is_integer()
    if value.type().is_string() or (is_integer and con.execute(value.nunique()) <= limit):
        counts = t.filter(value.notnull()).group_by(value=value.cast("string")).agg(n=ibis._.count())
        top = _column(con, counts.order_by(counts.n.desc(), counts.value).limit(limit), "value")
        return Attribute(name, values=sorted(top))
    number = value.cast("float64")
    n_edges = int(cfg["attribute_edges"])
    quantiles = {f"q{k}": number.quantile((k + 1) / (n_edges + 1)) for k in range(n_edges)}
    finite = t.filter(number.notnull() & ~number.isnan() & ~number.isinf())
    edges = con.to_pyarrow(finite.agg(**quantiles)).to_pylist()[0]
    return Attribute(name, edges=sorted({float(edge) for edge in edges.values() if edge is not None}))


def attribute_codes(table: ir.Table, attributes: list[Attribute], prefix: str = "") -> ir.Value:
    """The list of a row's codes, one per attribute, int32. It reads the columns `prefix + name`."""
    codes: list[ir.Value] = []
    for attribute in attributes:
        value = table[prefix + attribute.name]
        if attribute.values is not None:
            # The position of an absent value is -1, so its code is 0.
            values = ibis.literal(attribute.values, type="array<string>")
            code = values.index(value.cast("string")) + 1
        else:
            number = value.cast("float64")
            number = ibis.ifelse(number.isnan(), ibis.null("float64"), number)
            code = ibis.literal(1)
            for edge in attribute.edges or []:
                code = code + (number >= edge).cast("int32")
        codes.append(code.fill_null(0).cast("int32"))
    return ibis.array(codes).cast("array<int32>") if codes else ibis.literal([], type="array<int32>")


def encode_items(
    con: ibis.BaseBackend, items: ir.Table, schema: FeatureSchema, tokens_per_item: int
) -> ir.Table:
    """The codes of items: `item, category_codes` (list [L]), `leaf, brand_code, tokens, token_weights`.

    `items` has `item` (unique) and `title, description, category, brand`, null if not given. Values outside
    the schema get the code 0, or no token. The leaf is the deepest prefix of the path that is in the schema.
    """
    levels = range(schema.category_levels)
    t = _add_category_paths(items, schema.category_levels)
    for k in levels:
        categories = _vocabulary(schema.categories, f"path_{k}", f"code_{k}")
        t = t.left_join(categories, f"path_{k}").drop(f"path_{k}_right")
        t = t.mutate(**{f"code_{k}": t[f"code_{k}"].fill_null(0)})
    t = t.left_join(_vocabulary(schema.brands, "brand", "brand_code"), "brand").drop("brand_right")
    tokens = _token_lists(con, _word_counts(con, items), schema, tokens_per_item)
    t = t.left_join(tokens, "item").drop("item_right")
    # Categories are sorted, so the deepest prefix of a path has the greatest code.
    leaf = ibis.greatest(*[t[f"code_{k}"] for k in levels]) if schema.category_levels > 1 else t.code_0
    return t.select(
        "item",
        category_codes=ibis.array([t[f"code_{k}"] for k in levels]).cast("array<int32>"),
        leaf=leaf.cast("int32"),
        brand_code=t.brand_code.fill_null(0),
        tokens=t.tokens.fill_null(ibis.literal([], type="array<int32>")),
        token_weights=t.token_weights.fill_null(ibis.literal([], type="array<float32>")),
    )


def _item_table(
    con: ibis.BaseBackend, encoded: EncodedTables, codes: ir.Table, schema: FeatureSchema
) -> pa.Table:
    """The table `items.parquet`, with a row per item code. Row 0 is the unknown item.

    `price` is the list price, or null.
    """
    first_sales = encoded.lines.group_by("item").agg(first_sold=encoded.lines.available_at.min())
    t = encoded.items.left_join(first_sales, "item").drop("item_right")
    t = t.left_join(codes, "item").drop("item_right")
    rows = t.select(
        item=t.item,
        item_id=t.item_id,
        title=ibis.coalesce(t.title, t.item_id),
        category=t.category,
        brand=t.brand,
        price=t.price,
        margin=t.margin,
        # Items that the shop does not list cannot be recommended.
        available=t.available.fill_null(True) & t.listed,
        created_at=t.created_at,
        first_sold=t.first_sold.fill_null(0),
        category_codes=t.category_codes,
        leaf=t.leaf,
        brand_code=t.brand_code,
        tokens=t.tokens,
        token_weights=t.token_weights,
        attribute_codes=attribute_codes(t, schema.item_attributes, "attribute_"),
        **{f"attribute_{c}": finite_number(t[f"attribute_{c}"]) for c in _numeric_attributes(t, schema)},
    )
    table = con.to_pyarrow(rows.order_by("item").drop("item"))
    unknown = {
        "item_id": "", "title": "", "available": False, "first_sold": 0, "leaf": 0, "brand_code": 0,
        "category_codes": [0] * schema.category_levels, "tokens": [], "token_weights": [],
        "attribute_codes": [0] * len(schema.item_attributes),
    }  # fmt: skip
    unknown_row = {c: unknown.get(c) for c in table.column_names}
    return pa.concat_tables([pa.Table.from_pylist([unknown_row], schema=table.schema), table])


def _numeric_attributes(items: ir.Table, schema: FeatureSchema) -> list[str]:
    """The item attributes whose values are numbers, including those that the schema treats as categories."""
    return [a.name for a in schema.item_attributes if items[f"attribute_{a.name}"].type().is_numeric()]


def finite_number(value: ir.Value) -> ir.Value:
    """Returns a number as float64, null where it is not finite."""
    number = value.cast("float64")
    return ibis.ifelse(number.isnan() | number.isinf(), ibis.null("float64"), number)


def _vocabulary(values: list[str], key: str, code: str) -> ir.Table:
    """Returns a table of the columns `key` and `code`. A code is the value's position + 1."""
    return ibis.memtable(
        pa.table({key: pa.array(values, pa.string()), code: pa.array(range(1, len(values) + 1), pa.int32())})
    )
