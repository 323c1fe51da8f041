"""GELU instead of the squared ReLU (Hendrycks and Gimpel, 2016, arXiv:1606.08415; GPT-2's form of it).

The activation of GPT-2 and BERT, a smooth ReLU that grows linearly where the base's grows with the square.

Topic: feed-forward
Source: arXiv:1606.08415; https://github.com/vukrosic/universe-lm/blob/88a78f1/LEADERBOARD.md
Claimed: nothing measured against a squared ReLU in the paper. universe-lm, 20M tokens, width 144, one seed each:
    4.8647 against 4.7984 nats, worse; on a later stack of changes 4.6608 against 4.6700, better, and on the next one
    4.6527 against 4.6364, worse again.
Constants: of the source
"""

from models.seams import F, FeedForward, Parts, Tensor, replace


class GeluFeedForward(FeedForward):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))


def apply(parts: Parts) -> Parts:
    return replace(parts, feed_forward=lambda final, layer: GeluFeedForward(final.model))
