# What R's `survival` finds, once: values.csv (case, key, values to 13 digits), and the data that only R has.
#
#   Rscript tests/survival/r_values/generate.R FOLDER_OF_LIFELINES/datasets tests/survival/r_values
#
# lung, rossi and gbsg2 are read from the files that lifelines carries, so that both languages see the same rows.
library(survival)
folders <- commandArgs(trailingOnly = TRUE)
data_of <- function(name) read.csv(file.path(folders[1], name))
out <- file(file.path(folders[2], "values.csv"), "w")
writeLines(sprintf("# %s, survival %s, by generate.R", R.version.string, packageVersion("survival")), out)
writeLines("case,key,values", out)
put <- function(case, key, values) {
  writeLines(sprintf("%s,%s,%s", case, key, paste(sprintf("%.13g", as.numeric(values)), collapse = " ")), out)
}
exactly <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 60)

cox <- function(case, formula, data, transforms = c("km", "rank", "identity", "log"), ...) {
  fit <- coxph(formula, data, control = exactly, x = TRUE, model = TRUE, ...)
  told <- summary(fit)
  put(case, "counts", c(fit$n, fit$nevent))
  put(case, "coefficients", coef(fit))
  put(case, "covariance", if (is.null(fit$naive.var)) fit$var else fit$naive.var)
  if (!is.null(fit$naive.var)) put(case, "robust", fit$var)
  put(case, "log_likelihood", fit$loglik)
  put(case, "p_values", told$coefficients[, "Pr(>|z|)"])
  put(case, "interval", told$conf.int[, c("lower .95", "upper .95")])
  put(case, "overall", c(told$logtest, told$sctest[1:3], told$waldtest))
  put(case, "score_residuals", as.matrix(residuals(fit, type = "score"))[1:min(15, fit$n), ])
  put(case, "schoenfeld", head(as.matrix(residuals(fit, type = "schoenfeld")), 15))
  for (each in transforms) {
    found <- cox.zph(fit, each)
    put(case, paste0("zph_", each), found$table[, "chisq"])
    if (each == "km") put(case, "zph_scaled", head(as.matrix(found$y), 12))
  }
  steps <- basehaz(fit, centered = FALSE)
  keep <- unique(round(seq(1, nrow(steps), length.out = 12)))
  put(case, "hazard_times", steps$time[keep])
  put(case, "hazard", steps$hazard[keep])
  fit
}

curve <- function(case, formula, data, moments, tau) {
  fit <- survfit(formula, data, conf.type = "log-log")
  told <- summary(fit, times = moments, extend = TRUE)
  put(case, "times", moments)
  for (each in c("surv", "std.err", "lower", "upper", "n.risk")) put(case, each, told[[each]])
  put(case, "median", quantile(fit, 0.5)$quantile)
  put(case, "median_low", quantile(fit, 0.5)$lower)
  put(case, "median_high", quantile(fit, 0.5)$upper)
  means <- as.matrix(summary(fit, rmean = tau)$table)
  if (ncol(means) == 1) means <- t(means)
  put(case, "tau", tau)
  put(case, "mean", means[, "rmean"])
  put(case, "mean_error", means[, "se(rmean)"])
}

test <- function(case, formula, data) {
  found <- survdiff(formula, data)
  put(case, "statistic", found$chisq)
  put(case, "observed", if (is.matrix(found$obs)) rowSums(found$obs) else found$obs)
  put(case, "expected", if (is.matrix(found$exp)) rowSums(found$exp) else found$exp)
  put(case, "variance", found$var)
}

# The score test of a Cox model with exact ties is the log-rank test, whatever the column: groups or a trend.
score <- function(case, formula, data) {
  found <- coxph(formula, data, ties = "exact")
  put(case, "score", c(found$score, length(coef(found))))
}

incidence <- function(case, fit, moments) {
  told <- summary(fit, times = moments, extend = TRUE)
  put(case, "times", moments)
  put(case, "states", told$pstate)
  put(case, "errors", told$std.err)
  put(case, "lower", told$lower)
  put(case, "upper", told$upper)
}

# Random people: ties everywhere, late entry, four sites, clusters of about three, two causes.
set.seed(20261122)
n <- 240
random <- data.frame(site = sample(1:4, n, TRUE), family = sample(1:80, n, TRUE), dose = round(rnorm(n), 3),
                     old = rbinom(n, 1, 0.4), grade = sample(0:3, n, TRUE))
lasted <- rexp(n, 0.08 * exp(0.5 * random$dose + 0.4 * random$old + 0.1 * random$site))
left <- runif(n, 2, 30)
random$time <- pmax(ceiling(pmin(lasted, left)), 2)
random$event <- as.integer(lasted <= left)
random$entry <- ifelse(runif(n) < 0.5, floor(runif(n) * (random$time - 1)), 0)
random$cause <- random$event * (1 + rbinom(n, 1, 0.35))
write.csv(random, file.path(folders[2], "random.csv"), row.names = FALSE, quote = FALSE)
kept <- c("time", "status", "age", "sex", "edema", "bili", "protime", "albumin", "stage", "trt")
write.csv(pbc[, kept], file.path(folders[2], "pbc.csv"), row.names = FALSE, quote = FALSE)

lung <- data_of("lung.csv")
rossi <- data_of("rossi.csv")
gbsg2 <- data_of("gbsg2.csv")
gbsg2$nodes <- gbsg2$pnodes / 10
gbsg2$receptor <- gbsg2$progrec / 100
whole <- na.omit(lung[, c("time", "status", "age", "sex", "ph.ecog", "inst")])
random$row <- seq_len(n)
liver <- na.omit(pbc[, kept])

invisible({
  cox("lung", Surv(time, status) ~ age + sex + ph.ecog, whole)
  cox("lung_strata", Surv(time, status) ~ age + ph.ecog + strata(sex), whole)
  cox("lung_cluster", Surv(time, status) ~ age + sex + ph.ecog + cluster(inst), whole)
  cox("rossi", Surv(week, arrest) ~ fin + age + race + wexp + mar + paro + prio, rossi)
  cox("rossi_robust", Surv(week, arrest) ~ fin + age + prio, rossi, robust = TRUE)
  cox("gbsg2", Surv(time, cens) ~ horTh + age + tsize + tgrade + nodes + receptor, gbsg2)
  cox("pbc", Surv(time, status == 2) ~ age + edema + log(bili) + log(protime) + log(albumin), liver)
  cox("pbc_strata", Surv(time, status == 2) ~ age + log(bili) + log(albumin) + strata(stage) + cluster(round(age)),
      liver)
  cox("random", Surv(time, event) ~ dose + old, random)
  cox("random_entry", Surv(entry, time, event) ~ dose + old, random)
  cox("random_entry_strata", Surv(entry, time, event) ~ dose + old + strata(site), random)
  cox("random_entry_robust", Surv(entry, time, event) ~ dose + old + cluster(row), random)
  cox("random_entry_cluster", Surv(entry, time, event) ~ dose + old + cluster(family), random)
  cox("random_all", Surv(entry, time, event) ~ dose + old + strata(site) + cluster(family), random)
  cox("random_cause", Surv(entry, time, cause == 2) ~ dose + old, random)
  cox("random_interaction", Surv(time, event) ~ dose * old, random)
})
for (each in list(list("lung_ladder", coxph(Surv(time, status) ~ age + sex, whole, control = exactly),
                       coxph(Surv(time, status) ~ age + sex + ph.ecog, whole, control = exactly)),
                  list("gbsg2_ladder", coxph(Surv(time, cens) ~ age + tsize, gbsg2, control = exactly),
                       coxph(Surv(time, cens) ~ age + tsize + tgrade + nodes, gbsg2, control = exactly)))) {
  found <- anova(each[[2]], each[[3]])
  put(each[[1]], "ratio", c(found$Chisq[2], found$Df[2], found[["Pr(>|Chi|)"]][2]))
}
curve("lung_curve", Surv(time, status) ~ 1, whole, c(0, 5, 60, 200, 310, 365, 800), 365)
curve("lung_sexes", Surv(time, status) ~ sex, whole, c(0, 30, 310, 600), 600)
curve("pbc_curve", Surv(time, status == 2) ~ 1, liver, c(1, 400, 1500, 4000), 3652.5)
curve("random_curve", Surv(entry, time, event) ~ 1, random, c(1, 2, 5, 9, 15), 12)
test("lung_sex", Surv(time, status) ~ sex, whole)
test("lung_ecog", Surv(time, status) ~ ph.ecog, whole)
test("lung_ecog_strata", Surv(time, status) ~ ph.ecog + strata(sex), whole)
test("pbc_stage", Surv(time, status == 2) ~ stage, liver)
test("random_grade", Surv(time, event) ~ grade + strata(site), random)
score("lung_trend", Surv(time, status) ~ ph.ecog, whole)
score("lung_trend_strata", Surv(time, status) ~ ph.ecog + strata(sex), whole)
score("random_trend", Surv(time, event) ~ grade, random)
incidence("random_causes", survfit(Surv(time, factor(cause)) ~ 1, random, conf.type = "log-log"), c(1, 3, 6, 12, 20))
incidence("random_causes_entry",
          survfit(Surv(entry, time, factor(cause)) ~ 1, random, id = row, conf.type = "log-log"), c(3, 6, 12, 20))
# `cluster` is without effect on these curves in survival 3.5-3, and its `influence` is not what a change of weight does
# (whose squares add up to its own std.err): here is what it does, summed by family.
shares <- function(weight) {
  fit <- survfit(Surv(time, factor(cause)) ~ 1, random, id = row, weights = weight)
  fit$pstate[findInterval(c(3, 6, 12), fit$time), ]
}
moved <- function(i, by) replace(rep(1, n), i, 1 + by)
moves <- sapply(seq_len(n), function(i) (shares(moved(i, 1e-4)) - shares(moved(i, -1e-4))) / 2e-4)
put("random_causes_cluster", "times", c(3, 6, 12))
put("random_causes_cluster", "errors", apply(moves, 1, function(each) sqrt(sum(rowsum(each, random$family)^2))))
incidence("pbc_causes", survfit(Surv(time, factor(status)) ~ 1, liver, conf.type = "log-log"), c(200, 1000, 2500, 4000))
close(out)
