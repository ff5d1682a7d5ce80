"""The demo: real grocery purchases, two nights, and what came of them."""
