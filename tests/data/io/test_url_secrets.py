"""URLs in messages and saved configs have no secrets."""

import pytest

from data.io.url_secrets import mask_message, mask_secrets, mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:pw@host/shop", "postgresql://u:***@host/shop"),
        ("postgresql://u:p@s/s?w@host/shop", "postgresql://u:***@host/shop"),
        ("postgresql://u@host/shop?password=pw&x=1", "postgresql://u@host/shop?password=***&x=1"),
        ("delta+s3://b/lake?AWS_SECRET_ACCESS_KEY=pw", "delta+s3://b/lake?AWS_SECRET_ACCESS_KEY=***"),
        ("s3://bucket/shop?region=eu", "s3://bucket/shop?region=eu"),
        ("duckdb:///shop.duckdb", "duckdb:///shop.duckdb"),
        ("postgresql://u@host:5432/shop", "postgresql://u@host:5432/shop"),
    ],
)
def test_masked_urls(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert mask_secrets({"url": url, "tables": [url, None, 1]}) == {
        "url": masked,
        "tables": [masked, None, 1],
    }


def test_a_drivers_message_has_no_secret() -> None:
    url = "postgresql://u:p%40ss@host/shop?sslpassword=key1"
    message = mask_message(f"p@ss or key1 is wrong, as in p@ssage: {url}", url)
    assert message == f"*** or *** is wrong, as in p@ssage: {mask_url(url)}"
