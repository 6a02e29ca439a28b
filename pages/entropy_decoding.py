"""Which tokens need the large model, and can entropy tell?"""

from normviz.experiments.entropy_decoding.switching_price import price_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.corpus import corpus_widget

INTRO = r"""
A language model writes one token after the other, and spends the same work on each. Many tokens are easy: the rest
of a word, a closing bracket. **Entropy Adaptive Decoding** (EAD) has two models that read and write the same
tokens, a small and a large one, and lets them take turns.

The model that writes also says how sure it is. The **entropy** of its next-token distribution is 0 bits when it is
sure and $\log_2 V$ when all $V$ tokens are equally likely. EAD averages the last five entropies. While the mean is
above a threshold $\tau$, the large model writes; else the small one. No token is checked or drawn again, so the
text may differ from the large model's. Speculative decoding, in contrast, lets the large model check every token
that the small one drafted, and keeps the large model's text.

This page trains both models while you watch, one with some 5,000 parameters and one with 109,000, and has them
write a language with a right answer: stretches of letters in the order of the alphabet (**easy**), and stretches of
digits, each the sum of the two before it, mod 10 (**hard**: a table of 100 sums, and one digit in five is random).
The score is the share of written digits that follow the rule.

The paper's two models are pairs of the LLaMA and Qwen families on mathematics. Its threshold rule, the window of
five and the idea of a shortest run are the paper's. **The length of that run (10), the first writer and all
handling of caches are our choice**, because the paper does not say them.
"""

READING = r"""
**Text by its writer.** The first picture continues *your prompt* (grey; set it among the knobs). Each character has
its writer's colour. Below it are the entropies of whoever wrote (dots), their rolling mean (grey line) and the
threshold (dashed). Drag the dashed line or its slider: the text stays, and you see at once who would have written
each character. That follows from both models' entropies on this very text. The knob *Threshold τ* is different: it
decodes anew, and the text itself may change. The models are not trained again for it.

**Test prompts.** A row for each prompt. Red bars are digits that break the rule, the number is how many follow it.

**Quality by share.** The rival to beat is *random switching*: how good is it to call the large model as often, but at
random? Only the distance between the two lines is the merit of entropy. With few prompts both lines are uncertain.

**Cost.** *As published* counts parameters for each written token. But a model that takes over must first read all
that it missed: the chart of caches shows these jumps. *With catching up* counts every token that a model reads, and
is near 1 whenever the large model writes near the end. What remains is time: catching up is one parallel pass.
*Measured time* is that of this machine, with models so small that Python's own time is most of it.

**Out of step.** The rule is late: two or three hard characters pass before the mean of five is above the threshold,
and then it stays for ten. A stretch of digits here is about as long as that. So the small model writes its beginning
(after a prompt that ends in digits, nearly all of it), and the large one writes easy letters. At these settings EAD is
*worse* than switching at random as often; the claims say by how much. Set *Window* and *Shortest run* to 1, the arm
*Every single token*: the large model then writes where it is needed. In the paper's texts hard passages are longer, and
whether its shortest run is 10 we do not know.

**When it fails otherwise.** One threshold serves both models. Without random digits (preset *Sure digits*) the large
model becomes sure of the digits, its entropy falls below the threshold, and it hands back in the middle of the
stretch. Hysteresis, which the paper does not have, is one answer. With *Short stretches* the decision comes too late:
it holds from the next character on.

**Real text.** There is no right answer, so held-out text is given and both models only predict it (*teacher
forcing*). The straight line is random switching. A threshold that suits letters and digits is too low here:
entropies are higher.
"""

MATHS = (
    Maths(
        "Entropy of a token",
        r"""
From the logits $\ell$ of the model that writes, at temperature 1 whatever the sampling:

$$p = \mathrm{softmax}(\ell), \qquad H = -\sum_{i=1}^{V} p_i \log_2 p_i \in [0, \log_2 V]$$

with $0 \log 0 = 0$. In bits: a threshold in nats would be smaller by the factor 1.443.
""",
        "decoding/entropy.py",
        ("token_entropy",),
    ),
    Maths(
        "The switch rule",
        r"""
$$\bar H_t = \frac1w \sum_{i=t-w+1}^{t} H_i$$

(fewer terms at the start). The next token is wanted from the large model if $\bar H_t > \tau$, from the small one if
$\bar H_t \le \tau - h$ ($h = 0$ in the paper). The model changes if the current one has written at least
$T_{\min}$ tokens. Entropies stay in the window at a change, whichever model they came from.
""",
        "decoding/switching.py",
        ("EntropySwitchController.push", "EntropySwitchController._wanted"),
    ),
    Maths(
        "Two models, two caches",
        r"""
Keys and values of one model are of no use to the other. A model that becomes active at length $n$ with $p < n$
tokens in its cache reads the missing $n - p$ in one causal pass. After that its logits are those of a run without a
cache.
""",
        "decoding/entropy_adaptive.py",
        ("EntropyAdaptiveDecoder.generate", "_Pair.logits"),
    ),
    Maths(
        "What it costs",
        r"""
$f$: share of tokens that the large model wrote; $N_S, N_L$: numbers of parameters; $P$ prompt tokens, $T$ new ones;
$n_m$: tokens that model $m$ has read.

$$C = f + (1 - f)\,\frac{N_S}{N_L} \qquad C_{\text{full}} = \frac{n_S N_S + n_L N_L}{(P + T - 1)\, N_L}$$

$C$ is the paper's: $f = 0.43$ with $3 / 11$ gives 0.585, $f = 0.25$ with $1.5 / 14$ gives 0.330, the savings of
41.5 % and 67 % in its abstract. The sizes of the small models are inferred from this arithmetic.
""",
        "decoding/costs.py",
        ("cost_report",),
    ),
    Maths(
        "Random switching with the same share",
        r"""
Runs of at least $T_{\min}$ tokens, after which each token ends the run with a fixed probability, such that the large
model writes the share $f$ in the long run: runs of $T_{\min} / (1 - f)$ tokens on average for the large model and of
$T_{\min} / f$ for the small one.
""",
        "decoding/switching.py",
        ("RandomSwitchController.push",),
    ),
    Maths(
        "Speculative decoding",
        r"""
Draft $\gamma$ tokens by the small model's distribution $q$. One pass of the large model gives $p$ at all of them.
Accept a drafted $x$ with probability $\min(1, p(x) / q(x))$; at the first rejection draw from $\max(p - q, 0)$,
normalised. Every token is then distributed as $p$.
""",
        "decoding/speculative.py",
        ("SpeculativeDecoder._verify",),
    ),
    Maths(
        "The rule on a given text",
        r"""
Both models' logits are computed once; then every threshold is simulated. The text's own token counts with
$-\log_2$ of the probability that its owner gave to it.
""",
        "decoding/threshold_sweep.py",
        ("simulate_switching",),
    ),
)

EXACT = Exact(
    title="What switching costs",
    text="Cost against the share of the large model, by the formulas under *Maths and code*, for a text that is much "
    "longer than its prompt. The diamonds are the paper's two pairs.",
    figures=lambda: {"price": price_figure()},
)

experiment_page(
    "entropy-decoding",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"corpus": corpus_widget},
    exact=EXACT,
)
