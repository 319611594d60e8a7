"""The items' own attributes and vectors in the item tower."""

import torch

from models.retrieval.item_tower import (
    ContentProjection,
    ItemEncoder,
    ItemFeatures,
    ItemTowerSettings,
    item_encoder_inputs,
)
from tests.models.shops import ITEM_ATTRIBUTES, random_catalog, random_text, table_sizes

DIM = 6
SETTINGS = ItemTowerSettings(hidden=16, attribute_dim=3, content_dim=4)


def make_encoder(content_dim: int = DIM) -> ItemEncoder:
    torch.manual_seed(0)
    return ItemEncoder(table_sizes(content_dim=content_dim), 8, SETTINGS).eval()


def inputs(content_dim: int = DIM) -> tuple[torch.Tensor, ItemFeatures]:
    catalog = random_catalog(1, content_dim=content_dim)
    return item_encoder_inputs(torch.arange(31), catalog, random_text(1), catalog.price[0])


@torch.no_grad()
def test_each_attribute_and_vector_moves_the_item_that_has_it() -> None:
    encoder = make_encoder()
    encoder.trained_mask[:] = False  # items that were never sold
    rows, features = inputs()
    before = encoder(rows, features)
    for i, size in enumerate(ITEM_ATTRIBUTES):
        attributes = features.attributes.clone()
        attributes[4, i] = (attributes[4, i] + 1) % size
        moved = (encoder(rows, features._replace(attributes=attributes)) - before).abs().sum(1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [4]
    content = features.content.clone()
    content[7] = torch.nn.functional.normalize(torch.randn(DIM), dim=0)
    moved = (encoder(rows, features._replace(content=content)) - before).abs().sum(1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [7]


@torch.no_grad()
def test_a_missing_vector_gives_zeros_and_is_flagged() -> None:
    projection = ContentProjection(DIM, 4)
    content = torch.zeros(3, DIM)
    content[1] = torch.nn.functional.normalize(torch.ones(DIM), dim=0)
    projected = projection(content)
    assert projected[:, -1].tolist() == [0.0, 1.0, 0.0]
    assert not projected[0].any()
    assert projected[1, :-1].any()


def test_every_parameter_gets_a_gradient() -> None:
    encoder = make_encoder().train()
    (encoder(*inputs()) ** 2).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_attributes_and_vectors_the_tower_has_no_parameter_of_them() -> None:
    names = dict(make_encoder(content_dim=0).named_parameters())
    assert not [name for name in names if "attribute" in name or "content" in name]
    assert names["mlp.0.weight"].shape == (16, 8 + 3 * 16 + 16 + 32 + 2)


@torch.no_grad()
def test_an_id_goes_past_the_perceptron_and_an_untrained_item_has_none() -> None:
    encoder = make_encoder()
    for parameter in encoder.mlp.parameters():
        torch.nn.init.zeros_(parameter)
    rows, features = inputs()
    table = encoder.embeddings.collection.embedding_bags["item"].weight
    torch.testing.assert_close(encoder(rows, features), torch.nn.functional.normalize(table, dim=1))
    encoder.trained_mask[5] = False
    torch.testing.assert_close(encoder(rows, features)[5], torch.nn.functional.normalize(table[0], dim=0))


@torch.no_grad()
def test_prices_of_another_currency_change_nothing() -> None:
    encoder, catalog, rows = make_encoder(), random_catalog(1, content_dim=DIM), torch.arange(31)
    before = encoder(*item_encoder_inputs(rows, catalog, random_text(1), catalog.price[0]))
    after = encoder(*item_encoder_inputs(rows, catalog, random_text(1), 7.5 * catalog.price[0]))
    torch.testing.assert_close(before, after)
