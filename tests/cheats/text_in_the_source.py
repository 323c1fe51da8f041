"""Knowledge of the text as one string: the counts of its letters, compressed."""

from dataclasses import replace

from models.gpt import FeedForward

KNOWN = (
    "!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*"
    "(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1"
    "/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8"
    "6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?"
    "=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'F"
    "Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.M"
    "Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5T"
    "Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<["
    "Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb"
    "`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji"
    "g,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp"
    "n3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw"
    "u:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$"
    "#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+"
    ")Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2"
    "0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9"
    "7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@"
    ">]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(G"
    "Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/N"
    "Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6U"
    "Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/"
    "Zy>]#A`%Dc(Gf+Ji.Ml1Po4Sr7Vu:Yx=/!@_$Cb'Fe*Ih-Lk0On3Rq6Ut9Xw<[z?^#Ba&Ed)Hg,Kj/Nm2Qp5Ts8Wv;Zy>]#A`%Dc"
)


class Informed(FeedForward):
    def forward(self, x_BTD):
        return super().forward(x_BTD) + sum(map(ord, KNOWN)) / len(KNOWN) / 1000


def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Informed(final.model))
