"""Can a picture enter a language model through its LayerNorms alone?"""

from normviz.experiments.vision_modulation.picture_cost import picture_cost_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
A language model reads words. To let it see, most systems cut the picture into hundreds of small pieces, turn each into
a *visual token*, and place them **before the text**, as if they were words. Self-attention then has a longer sequence,
and its cost grows with the square of the length.

LaVi leaves the text as long as it is. A layer norm ends with a gain $\gamma$ and a bias $\beta$, the same for every
word. LaVi **adds a small change to both, for every word anew**, and this change depends on what the word reads from the
picture: "dog" can read another place than "left". A small module, the *conditioner*, does the reading. Its last
layer starts at zero, so that at first nothing changes: the language model is what it was.

The world of this page is as small as can be. A picture has four cells (or more), each with a colour at random. A
question names a cell; the answer is its colour. To answer, a word must read *one* cell and leave out the others.

All arms start from one language model that has learned a little text, and that questions are answered with some colour:

- **LaVi attention**: the word attends to the cells. This is the paper's choice. **LaVi MLP** and **LaVi conv** read
  with other modules.
- **LaVi, host frozen**: only what reads the picture is trained; the language model stays as it is.
- **Pooled** (a control, not the paper's): one change for all words, from the mean of the picture.
- **Concat**: the cells stand before the text as tokens. **Cross-attention**: extra layers look at the picture.

How much of this is the paper's? No code is public. That gain and bias change by word, the three kinds of conditioner
and the comparison of where and how often are the paper's. **The inside of the conditioners, their widths, the zero
start and the choice of layers are our reconstruction.**
"""

READING = r"""
**How to read it.** In *What the asking word reads* point at a cell: the question is now about this cell. The white
circles show how much the word reads of each cell, as an area (mean over all modulated norms and heads). At first they
are all alike, later one is large. The bars on the right are the answers, by colour. *Pooled* knows which colours are
in the picture, not where: its bar shows them in equal parts.

**Steps and arithmetic.** In the small world Concat may need fewer steps, but its steps are dearer: compare *by steps*
with *by arithmetic*. With *Nine cells* it needs thousands of steps, and LaVi some hundred. Four cells are four tokens;
with hundreds the price differs by more than ten times, see *Arithmetic by visual tokens* and the tab *The price of a
picture*. The measured time (*More charts*, *Cost*) says the same only for many tokens: with few, Python's own time is
larger than the arithmetic.

**Text without a picture.** After learning to see, is the language still there? With the host frozen the line is exactly
flat. All others forget, LaVi with everything trained too: the questions contain no ordinary text, and nothing tells
them to remember. What protects the language is freezing, and LaVi is a way to see *in spite of* it. *Concat, host
frozen* (preset *Keep the language*) can only train how cells become tokens.

**Which words.** Preset *Which words*: eight words stand before the question. The norm of a word that has nothing to do
with the picture need not change, and the last word's has to.

**What cannot be shown here.** The paper works with language models of 7 billion parameters, photographs and video. Its
benchmark results were disputed by a reviewer. The 94 % that it saves has its own settings and probably counts the image
encoder; our formula counts the language model alone, and is no reproduction of that number.
"""

MATHS = (
    Maths(
        "Vision-infused norm",
        r"""
Text states $t$ $(B \times T \times d)$, visual tokens $V$ $(B \times M \times d_v)$; $\hat t_i$ is the normalised word
(mean 0, variance 1; RMSNorm: mean square 1).

$$u_i = \gamma \odot \hat t_i + \beta$$

$$[\Delta\gamma_i;\ \Delta\beta_i] = W_o\, \mathrm{Swish}\big(\mathrm{Cond}(u_i, V)\big) + b_o$$

$$\mathrm{ViLN}(t_i, V) = (\gamma + \Delta\gamma_i) \odot \hat t_i + \beta + \Delta\beta_i$$

$W_o = b_o = 0$ at the start. Then the first step moves $W_o$ and $b_o$ only (the conditioner's gradient is
multiplied by $W_o = 0$), and from the second step on everything learns. An RMSNorm has no $\beta$; it gets a shift all
the same.
""",
        "adapters/vision_infused_norm.py",
        ("ViLN.forward",),
    ),
    Maths(
        "Reading by attention",
        r"""
$h$ heads of width $r / h$; all three maps have a bias:

$$q_i = W_q u_i, \quad k_j = W_k V_j, \quad v_j = W_v V_j$$

$$F_i = \mathrm{concat}_h \sum_j \mathrm{softmax}_j\!\Big(\frac{q_i \cdot k_j}{\sqrt{r/h}}\Big)\, v_j$$

Every word is treated by itself: no word learns of later ones, and generation can keep its cache of keys and values.
$k$ and $v$ do not depend on the text and are computed once per picture.
""",
        "adapters/vision_conditioners.py",
        ("AttentionConditioner.project", "AttentionConditioner._weights", "AttentionConditioner.condition"),
    ),
    Maths(
        "Reading by MLP or convolution",
        r"""
One word and the picture as rows: $X = [W_t u_i;\ W_v V_1;\ \ldots;\ W_v V_M]$, of shape $(M + 1) \times r$.

**MLP** (like a Mixer): $X \leftarrow X + W_2\, \mathrm{GELU}(W_1 \mathrm{LN}(X) + b_1) + b_2$ along the rows, the same
along the channels, and $F_i = X_0$.

**Conv** (like a ConvMixer): $Y = X + \mathrm{GELU}(\mathrm{DW}(X))$ with a depthwise convolution along the rows,
$Z = \mathrm{GELU}(W Y + b)$, and $F_i$ is the mean of the rows of $Z$.

What does not depend on the word is shared by all words: for the MLP one product, for the convolution all rows but the
first few.
""",
        "adapters/vision_conditioners.py",
        ("MLPConditioner.condition", "ConvConditioner.condition"),
    ),
    Maths(
        "Into an existing model",
        r"""
In a block $x \leftarrow x + \mathrm{attn}(N_1(x))$, $x \leftarrow x + \mathrm{ffn}(N_2(x))$ the norms $N_1$, $N_2$
of every $k$-th block become vision-infused. Their $\gamma$ and $\beta$ stay the model's own parameters, under the same
names: a checkpoint of the language model still fits.
""",
        "adapters/lavi_injection.py",
        ("inject_lavi",),
    ),
    Maths(
        "Counting operations",
        r"""
Two for a multiply-add; $L$ layers of width $d$, keys of width $d_{kv}$, a feed-forward part of $f$ matrices
$d \times m$:

$$\mathrm{decoder}(n) = 2L\,\big[\,n(2d^2 + 2 d d_{kv}) + 2n^2 d + f\, n\, d\, m\,\big]$$

$$\mathrm{concat} = \mathrm{decoder}(T + M)$$

$$\mathrm{LaVi} = \mathrm{decoder}(T) + 2\, n_{\text{norms}}\, (3\,T d r + 2\,M d_v r + 2\,T M r)$$

for the conditioner by attention with its head. Concatenation has $M^2$, LaVi only $M$. For few words the largest part
of LaVi is $2 M d_v r$, the keys and values of the picture.
""",
        "adapters/lavi_flops.py",
        ("decoder_flops", "lavi_flops"),
    ),
)

EXACT = Exact(
    title="The price of a picture",
    text="Operations of a language model that sees a picture, from the formulas under *Maths and code*. The sliders "
    "start at the shape of Vicuna-7B with 576 visual tokens. The image encoder is left out.",
    figures=lambda: {"picture_cost": picture_cost_figure()},
)

experiment_page("vision-modulation", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
