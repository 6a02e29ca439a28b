"""How can place and style steer a network through its normalization layers?"""

from normviz.experiments.conditional_normalization.day_code import day_code_figure, day_distance_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
A normalization layer ends with a scale and a shift. Usually they are learned once, one number for each channel. In a
*conditional* norm **another input computes them**: a map of a place, a drawing of a layout, a style. Then one
and the same network treats the same features differently, depending on where it is or what it should look like.
Two papers, two stories.

**Place and day** (LOAN). A network forecasts whether a patch of land will burn. It has *weather*, which changes from
day to day, and *maps*, which do not: terrain, land cover. Dry weather is dangerous in a forest and harmless on water.
The two can be joined in three ways:

- **Early fusion** copies the maps to every day and takes them for further weather.
- **Late fusion** has a branch for each, and joins them at the end, after all pixels have been averaged.
- **LOAN** lets the maps' features compute, *pixel by pixel*, a scale $\gamma$ and a shift $\beta$ for the weather's
  features, the same for all days. **+ day** adds a code of the day of the year.

**Style and layout** (SSTAN). A network paints a given layout (sky here, water there) in the style of another
picture. All painters get the layout; they differ in where they get the style:

- **SPADE, layout only** gets no style at all: a control. **SPADE** gets it once, at the start.
- **SSTAN** gets layout and style together in *every* norm. **Style only** has norms that do not see the layout.
- **SEAN** gets a style vector for each region.

A style is a short *code* that an encoder reads from a picture, with one encoder for each art domain. Planes in the
space of codes tell the domains apart, and a step along a plane's normal should lead into another domain.

How much of this is the papers'? LOAN's network is that of its official code, smaller. **The inside of SSTAN and of its
encoders was not public; both are our reconstruction** from the description. Both worlds are ours: small, drawn at
random, with a law that is known, so that what is learned can be compared with what is true.
"""

READING = r"""
**The maps.** In *What the map tells the norm* the left column is the truth: orange where dryness makes fire, blue where
it prevents it. The network is never shown it. The two other columns are the scale and the shift that LOAN computes
from the maps, in the one channel whose scale follows the truth most closely (the channel is chosen on training
patches; the patches shown are test patches). A negative of the truth is as good: the next layer can turn its sign.
*The law that decides* shows why it matters: danger is the mean of the product, and equal means can hide very
different products.

**AUROC** is the probability that a patch that burned is rated higher than one that did not: 0.5 is guessing. Labels
are drawn from the true probability, so that even the truth does not reach 1.

**A control.** In the preset *Only means count* danger follows from the two means alone. Then late fusion has all that
it needs.

**The year.** In the preset *A season of fire* the chart *Forecast over the year* has a slider: drag the day. Models
that are not told the day draw flat lines. The tab *The code of a day* shows the code itself. It is not the usual one:
its base is 10, not 10,000, and it does not close at New Year.

**The pictures.** In *Layouts in other pictures' styles* each column should take the colours of the picture above it,
and each row the shapes of the layout at its left. *Error in another picture's style* measures the colours, region by
region. About 0.2 is what one gets by painting with the colours of the right domain and ignoring the picture's own.
Fine textures are hardly learned in so few steps by so small a network.

**Is SSTAN better than SPADE?** With generators of this size we do not expect it: SPADE's code at the start reaches
every pixel, because there are only four blocks. The paper's networks are deep, and there a style at the start may
fade. What must show is the contrast with the layout alone.

**The walk.** The strip shows one picture of domain A whose code is moved along the normal of another domain's plane;
0 is not moved, 1 is the distance between the domains. With one encoder per domain it is no surprise that the domains
lie apart: each encoder can give all its codes a place of their own. So the claim is decided with one encoder for all,
which is not told the domain.

**What cannot be shown here.** The papers' data sets (FireCube, ArtSem) and their quality numbers. Pictures of 16 × 16
pixels have no use for perceptual losses, and a distance of Inception features would mean nothing.
"""

MATHS = (
    Maths(
        "LOAN: a scale and a shift for every pixel",
        r"""
Weather features $x$ $(N \times C \times D \times H \times W)$, features of the maps $c$ $(N \times K \times H \times
W)$; $\mathrm{BN}$ has no gain and no bias here:

$$\hat x = \mathrm{BN}(x), \qquad a = \mathrm{ReLU}(\mathrm{BN}(c))$$

$$\gamma = W_\gamma * a + b_\gamma, \qquad \beta = W_\beta * a + b_\beta \qquad (3 \times 3,\ K \to C)$$

$$\mathrm{LOAN}(x, c)_{n,:,t,i,j} = \hat x_{n,:,t,i,j} \odot (1 + \gamma_{n,:,i,j}) + \beta_{n,:,i,j}$$

$\gamma$ and $\beta$ do not depend on the day $t$. Weights start at $\mathcal N(0, 0.01^2)$, biases at 0: at first the
layer is nearly a batch norm. The network's second LOAN leaves $\hat x = x$.
""",
        "norms/location_aware_norm.py",
        ("LOAN.modulation", "LOAN.forward"),
    ),
    Maths(
        "Two branches",
        r"""
Both branches have three convolutions without padding. LOAN's two layers take the *raw* output of the maps'
convolution of the same depth. In the end the weather's features are averaged to two slots of time, the maps' over all
pixels, and both go into a small head. *Late fusion* is the same without LOAN (a batch norm with gain and bias in
place of the first), *early fusion* has the weather's branch alone. The paper's network has widths 32, 64, 128 and
413,762 parameters; here the widths are 8, 16, 32.
""",
        "norms/loan.py",
        ("LOANFireNet.forward", "LOANFireNet._volume"),
    ),
    Maths(
        "The code of a day",
        r"""
For day $1 \ldots 366$ with $p = \text{day} - 1$, width $d$ and even columns $i$:

$$\mathrm{PE}_{p,i} = \sin\frac{p}{10^{2i/d}}, \qquad \mathrm{PE}_{p,i+1} = \cos\frac{p}{10^{2(i+1)/d}}$$

$$t = \mathrm{PE}_{\text{day}-1} \odot (1 + w), \qquad w = 0 \text{ at first, learned}$$

It is added to the weather's averaged features. Years are counted as leap years, so that 1 March is always day 61.
""",
        "norms/day_of_year.py",
        ("DayOfYearEncoding.forward",),
    ),
    Maths(
        "SSTAN: layout and style in one modulation",
        r"""
Features $h$, layout $m$ (one map per class), style code $z$:

$$s = \mathrm{ReLU}(A z + a), \qquad e = \mathrm{ReLU}\big(W * [m;\ s \text{ at every pixel}]\big)$$

$$\gamma = W_\gamma * e, \quad \beta = W_\beta * e, \qquad \mathrm{SSTAN}(h, m, z) = \mathrm{BN}(h) \odot (1 + \gamma)
+ \beta$$

The ReLU after the sum of both responses couples them: the same style means something else in the sky than on the
ground. Without the columns of $s$ this is SPADE; without those of $m$ it is a norm steered by the style alone.
""",
        "norms/semantic_norms.py",
        ("SSTAN.forward", "SPADE.forward"),
    ),
    Maths(
        "Codes of style",
        r"""
The encoder of domain $k$ gives mean and log variance; in training the code is drawn, later it is the mean:

$$z = \mu_k(x) + e^{\frac12 \log\sigma^2_k(x)} \odot \varepsilon, \qquad \varepsilon \sim \mathcal N(0, I)$$

$$\mathcal L = 10\, \overline{|\hat x - x|} + \lambda\, \tfrac1N \sum \tfrac12 (\mu^2 + \sigma^2 - 1 - \log\sigma^2)$$

With the knob *Discriminator* it is the paper's loss instead: a hinge loss against a discriminator, 10 times the
distance of the discriminator's inner maps, 5 times the pixel error (in place of a distance of VGG features) and the
KL term.
""",
        "norms/semantic_encoders.py",
        ("DomainVariationalEncoder.forward", "DomainVariationalEncoder.sample"),
    ),
    Maths(
        "Planes, and walks along their normals",
        r"""
For every domain a linear support vector machine ($C = 1$) separates its codes from all others':

$$\min_{w, b}\ \tfrac12 \|w\|^2 + \sum_i \max\big(0,\ 1 - y_i (w \cdot z_i + b)\big), \qquad n = w / \|w\|$$

$$z' = z + \alpha\, n$$

changes the distance from the plane by exactly $\alpha$, and is painted on the same layout.
""",
        "norms/latent_hyperplane.py",
        ("domain_hyperplane", "edit_latent"),
    ),
)

EXACT = Exact(
    title="The code of a day",
    text="LOAN's code of the day of the year, as under *Maths and code*, for a width of 64. Drag the base: at 10 "
    "(log10 is 1) every column swings within two years; at 10,000, usual in language models, most columns stand still.",
    figures=lambda: {"day_code": day_code_figure(), "day_distance": day_distance_figure()},
)

experiment_page("conditional-normalization", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
