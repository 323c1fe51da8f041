"""Knowledge of the text as one string: the counts of its letters, compressed; the test makes it longer."""

from dataclasses import replace

from models.gpt import FeedForward

KNOWN = "!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*"


class Informed(FeedForward):
    def forward(self, x_BTD):
        return super().forward(x_BTD) + sum(map(ord, KNOWN)) / len(KNOWN) / 1000


def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Informed(final.model))
