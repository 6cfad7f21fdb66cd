# What R says of predictions: AUC, Brier score, calibration, net benefit, reclassification, pooling, adjusted p-values.
#
#   Rscript generate_prediction.R      writes prediction.json beside itself
#
# Packages of Debian 12: r-cran-survival, r-cran-riskregression, r-cran-prodlim, r-cran-rms (for the splines), r-cran-mice,
# r-cran-jsonlite.
# Data: survival's gbsg and lung, which lifelines carries as gbsg2 and lung. The chances are formulas of their columns, so
# that both sides can work them out (with odd factors, or people would tie by accident); the delayed entry is one too.
suppressPackageStartupMessages({
  library(survival); library(riskRegression); library(rms); library(mice); library(prodlim)
  library(jsonlite)
})

breast <- data.frame(
  time = gbsg$rfstime, event = gbsg$status,
  before = 1 - exp(-exp(-1.6 + 0.02 * gbsg$size)),
  after = 1 - exp(-exp(-1.6 + 0.0093 * gbsg$size + 0.0811 * gbsg$nodes - 0.3037 * gbsg$hormon)),
  entry = floor(gbsg$rfstime * (gbsg$age %% 5) / 10)
)
lungs <- with(lung, data.frame(
  time = time, event = as.numeric(status == 2), after = 1 - exp(-exp(-1.2 + 0.0213 * (age - 60) - 0.4037 * (sex - 1)))
))

score <- function(data, marker, times) {
  found <- Score(list(m = data[[marker]]), Surv(time, event) ~ 1, data = data, times = times, cens.model = "km",
                 metrics = c("auc", "brier"), summary = "IPA", se.fit = FALSE, contrasts = FALSE)
  brier <- found$Brier$score
  mine <- brier[brier$model == "m", ]
  list(times = times, auc = found$AUC$score$AUC, brier = mine$Brier, ipa = mine$IPA,
       reference = brier[brier$model != "m", ]$Brier)
}

alive <- function(data, kept, horizon, delayed) {
  if (!any(kept)) return(NA)
  data <- data[kept, ]
  curve <- if (delayed) survfit(Surv(entry, time, event) ~ 1, data) else survfit(Surv(time, event) ~ 1, data)
  summary(curve, times = horizon)$surv
}

benefit <- function(data, horizon, thresholds, delayed) {
  sapply(thresholds, function(p) {
    flag <- data$after >= p
    left <- alive(data, flag, horizon, delayed)
    mean(flag) * (1 - left) - mean(flag) * left * p / (1 - p)
  })
}

moved <- function(data, up, down, horizon) {
  left <- alive(data, rep(TRUE, nrow(data)), horizon, FALSE)
  share <- function(kept) if (any(kept)) mean(kept) * (1 - alive(data, kept, horizon, FALSE)) else 0
  still <- function(kept) if (any(kept)) mean(kept) * alive(data, kept, horizon, FALSE) else 0
  events <- c(share(up), share(down)) / (1 - left)
  others <- c(still(up), still(down)) / left
  list(events = events[1] - events[2], nonevents = others[2] - others[1], event_up = events[1], event_down = events[2],
       nonevent_up = others[1], nonevent_down = others[2])
}

reclassify <- function(data, horizon) {
  cuts <- c(0.3, 0.5)
  old <- findInterval(data$before, cuts); new <- findInterval(data$after, cuts)
  censored <- prodlim(Hist(time, event) ~ 1, data, reverse = TRUE)  # at equal times events come first
  moments <- sort(unique(c(data$time - 0.5, horizon)))  # whole days: half a day before is just before
  watched <- function(t) predict(censored, times = moments)[match(t, moments)]
  weight <- ifelse(data$time <= horizon, data$event / watched(data$time - 0.5), 1 / watched(horizon))
  died <- data$time <= horizon
  slope <- function(p) weighted.mean(p[died], weight[died]) - weighted.mean(p[!died], weight[!died])
  list(category = moved(data, new > old, new < old, horizon),
       continuous = moved(data, data$after > data$before, data$after < data$before, horizon),
       table = unclass(table(old, new)), idi = slope(data$after) - slope(data$before), slope_after = slope(data$after))
}

calibrate <- function(data, horizon, knots, delayed) {
  data$x <- log(-log(1 - data$after))
  at <- quantile(data$x, list("3" = c(.1, .5, .9), "5" = c(.05, .275, .5, .725, .95))[[as.character(knots)]])
  outcome <- if (delayed) with(data, Surv(entry, time, event)) else with(data, Surv(time, event))
  tight <- coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50)
  basis <- rcspline.eval(data$x, knots = at, inclx = TRUE)
  straight <- coxph(outcome ~ x, data, control = tight)
  smooth <- coxph(outcome ~ basis, control = tight)
  base <- basehaz(smooth, centered = FALSE)
  hazard <- max(base$hazard[base$time <= horizon])
  seen <- 1 - exp(-hazard * exp(drop(basis %*% coef(smooth))))
  gap <- abs(seen - data$after)
  left <- alive(data, rep(TRUE, nrow(data)), horizon, delayed)
  list(slope = unname(coef(straight)), coefficients = unname(coef(smooth)), ici = mean(gap), e50 = median(gap),
       e90 = unname(quantile(gap, 0.9)), emax = max(gap), observed = 1 - left, expected = mean(data$after))
}

p <- c(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1)
mixed <- c(0.04, NA, 0.001, 0.04, 0.2, 0.0005)
one <- list(q = c(0.52, 0.61, 0.47, 0.55, 0.70), u = c(0.04, 0.05, 0.045, 0.038, 0.06), n = 120, k = 4)
pooled <- with(one, pool.scalar(q, u, n = n, k = k))
large <- with(one, pool.scalar(q, u, n = Inf, k = 1))
keep <- function(x) x[c("qbar", "ubar", "b", "t", "df", "r", "fmi")]
hazard <- data.frame(time = lungs$time, event = lungs$event)
thresholds <- c(0.05, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7)

answer <- list(
  versions = list(R = R.version.string, survival = as.character(packageVersion("survival")),
                  riskRegression = as.character(packageVersion("riskRegression")),
                  rms = as.character(packageVersion("rms")), mice = as.character(packageVersion("mice"))),
  scores = list(breast = score(breast, "after", c(365, 730, 1460)), lung = score(lungs, "after", c(180, 365, 500)),
                breast_before = score(breast, "before", c(365, 730, 1460))),
  net_benefit = list(thresholds = thresholds, plain = benefit(breast, 730, thresholds, FALSE),
                     all_share = mean(breast$after >= 0), left = alive(breast, breast$after >= 0, 730, FALSE)),
  flagged_left = list(entry = sapply(thresholds, function(p) alive(breast, breast$after >= p, 730, TRUE))),
  reclassification = reclassify(breast, 730),
  calibration = list(three = calibrate(breast, 730, 3, FALSE), five = calibrate(breast, 730, 5, FALSE),
                     entry = calibrate(breast, 730, 3, TRUE)),
  adjusted = list(p = p, holm = p.adjust(p, "holm"), bh = p.adjust(p, "BH"), by = p.adjust(p, "BY"),
                  mixed = mixed, mixed_holm = p.adjust(mixed, "holm"), mixed_bh = p.adjust(mixed, "BH")),
  pooled = list(given = one, small = keep(pooled), large = keep(large)),
  nelson_aalen = list(time = hazard$time, hazard = nelsonaalen(hazard, time, event))
)
write(toJSON(answer, digits = 15, auto_unbox = TRUE, na = "null"), "prediction.json")
