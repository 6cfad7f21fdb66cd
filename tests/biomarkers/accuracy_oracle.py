"""The accuracy of an age model by its definitions, on rows: slow, and free of sums."""

import numpy as np
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error


def measures(age, face_age, counted=None, years=10):
    """counted: first ages of the bins in the bin-wise MAE; by default those of ten rows or more."""
    age, face_age = np.asarray(age, float), np.asarray(face_age, float)
    error, mean = face_age - age, (face_age + age) / 2
    made = {
        "mae": mean_absolute_error(age, face_age),
        "bias": np.mean(face_age) - np.mean(age),
        "rmse": root_mean_squared_error(age, face_age),
        "pearson": np.nan,
        "r2": np.nan,
        "slope": np.nan,
        "error_slope": np.nan,
        "difference_slope": np.nan,
        "difference_sd": np.std(error, ddof=1) if len(age) > 1 else np.nan,
    }
    if np.ptp(age) > 0:
        made["r2"] = r2_score(age, face_age)
        made["slope"] = stats.linregress(age, face_age).slope
        made["error_slope"] = stats.linregress(age, error).slope
        if np.ptp(face_age) > 0:
            made["pearson"] = stats.pearsonr(age, face_age).statistic
    if np.ptp(mean) > 0:
        made["difference_slope"] = stats.linregress(mean, error).slope
    reach = stats.norm.ppf(0.975) * made["difference_sd"]
    made["limit_low"], made["limit_high"] = made["bias"] - reach, made["bias"] + reach
    for k in (3, 5, 10):
        made[f"within_{k}"] = np.mean([abs(each) <= k + 1e-9 for each in error])
    first = [int(each // years) * years for each in age]
    if counted is None:
        counted = {each for each in first if first.count(each) >= 10}
    means = [np.mean([abs(e) for e, f in zip(error, first, strict=True) if f == each]) for each in counted & {*first}]
    made["binwise_mae"] = np.mean(means) if means else np.nan
    return made


def counted_bins(age, years=10):
    first = [int(each // years) * years for each in age]
    return {each for each in first if first.count(each) >= 10}


def sample(n, people, seed, *, whole_years=False):
    """Ages, face ages and whose they are: errors that grow with age, and that a person keeps."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, people, n)
    age = np.clip(rng.gamma(5, 9, people)[subject] + rng.uniform(0, 9, n), 0, 110)
    face_age = 8 + 0.8 * age + rng.normal(0, 4, people)[subject] + rng.normal(0, 2 + age / 30)
    if whole_years:
        age, face_age = np.floor(age), np.round(face_age)
    return age, face_age, subject
