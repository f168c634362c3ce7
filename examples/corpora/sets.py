"""Where the examples' data sets come from."""

from __future__ import annotations

GITHUB = "https://raw.githubusercontent.com"
SST2 = f"{GITHUB}/clairett/pytorch-sentiment-classification/457ffd83de90a9d6d472d8ffc31bbffe40a8b236/data/SST2"
CHNSENTICORP = f"{GITHUB}/dbiir/UER-py/5743050cc41f0f21986c9f938db5ac1726052629/datasets/chnsenticorp"
FASHION = f"{GITHUB}/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion"
MULTI30K = f"{GITHUB}/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
FSDD = "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz"
SHAKESPEARE = f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare"

SETS = {
    "sst2": {
        "train.tsv": (f"{SST2}/train.tsv", "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920"),
        "dev.tsv": (f"{SST2}/dev.tsv", "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359"),
        "test.tsv": (f"{SST2}/test.tsv", "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7"),
    },
    "chnsenticorp": {
        "train.tsv": (f"{CHNSENTICORP}/train.tsv", "0b2653c23e5c79f539472e90cb10522f0ada4b80d3da95572d8b48fda47d5b33"),
        "dev.tsv": (f"{CHNSENTICORP}/dev.tsv", "d129e443eac08ce7643013dad496a8edf282be39cac1a4f2ad080818b296b331"),
        "test.tsv": (f"{CHNSENTICORP}/test.tsv", "34f9d71eba6096cd8689e18913d28cf9a5f3c18a6c2804cd13304a321738c4bc"),
    },
    "fashion_mnist": {
        f"{name}-ubyte.gz": (f"{FASHION}/{name}-ubyte.gz", digest)
        for name, digest in {
            "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        }.items()
    },
    "multi30k": {
        f"{name}.gz": (f"{MULTI30K}/{name}.gz", digest)
        for name, digest in {
            "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
            "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
            "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
            "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
            "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
            "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        }.items()
    },
    "fsdd": {
        "recordings.tar.gz": (
            f"{FSDD}/26eb9aaf76e81b692f806f9140c2d2777410d7a1",
            "45a9b976ba3397a2fd5c70a9f2e43c34f442a3a6be47392ecfc41174b678f37e",
        ),
    },
    "tinyshakespeare": {
        "input.txt": (
            f"{SHAKESPEARE}/input.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
        ),
    },
}  # fmt: skip
"""Data set → file → (address, SHA-256). The sum of a .tar.gz is that of the recordings in it: hosts pack anew."""
