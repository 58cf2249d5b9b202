"""The usual mistakes in a log-likelihood, as an audit names them."""

LOOK_AHEAD = (
    "x_t, or a later step, is seen before it is predicted (a shift or a causal mask is missing)"
)
PADDING_COUNTED = "padding is counted: mask the steps past each sequence's end"
BATCH_STATISTICS = (
    "statistics of the batch are used (batch norm in training mode?), or axes are mixed up"
)
FIRST_UNSCORED = "the first step is not scored: a model has to predict x_1 from nothing"
STEP_UNSCORED = "a step is not scored: steps are skipped, or the model's frames are at another rate"
MISSING_LOG_SIGMA = (
    "the σ of a normalisation inside the model is forgotten: add its −Σ log σ to each step"
)
MISSING_HALF = "a ½ is missing in a Gaussian log-density or a KL"
VARIANCE_AS_STD = "a variance is taken for a standard deviation, or the other way round"
MISSING_LOG_2PI = "the constant ½ log 2π of the Gaussian density is missing"
MEAN_OF_LOGS = (
    "a mean of logs (or a bound) is given where the log of a mean belongs, or a constant is wrong"
)
PROPOSAL = (
    "log q is not the density that z was drawn from: a variance taken for a standard deviation, "
    "a ½ left out, another z, or an analytic KL in its place"
)
ANALYTIC_KL = (
    "log q is the same for all samples: an analytic KL instead of log q(z | x) at the sample"
)
ONE_SEED = "every call draws the same samples: take random numbers from the generator that is given"
SAME_SAMPLES = "all samples weigh the same: averaged over samples before the log of their mean"
DIVIDED_BY_LENGTH = "the total of a sequence is divided by its number of steps"
DEPENDS_ON_K = (
    "what is returned of one sample depends on num_samples: leave log K and the mean to us"
)
