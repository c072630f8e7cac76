# What goes wrong, as Cloud Monitoring sees it; keyturn's own alerts go to the topic of that name.

locals {
  lines = "resource.type=\"cloud_run_revision\" AND jsonPayload.service=\"keyturn\""

  # Each is one line of the functions' own log.
  told = {
    failed = {
      filter = "${local.lines} AND jsonPayload.message=\"step failed\" AND severity>=ERROR"
      says   = "A step has failed for good: the line says which secret, why, and what to do."
    }
    overdue = {
      filter = "${local.lines} AND jsonPayload.message=\"alert\" AND jsonPayload.happening=\"overdue\""
      says   = "A rotation that is due has not ended."
    }
    foreign = {
      filter = "${local.lines} AND jsonPayload.message=\"alert\" AND jsonPayload.happening=\"foreign\""
      says   = "Somebody has stored a value beside keyturn, and readers of `latest` get it."
    }
  }
}

resource "google_monitoring_alert_policy" "told" {
  for_each = local.told

  project               = var.project
  display_name          = "${var.name}: ${each.key}"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = each.key

    condition_matched_log {
      filter           = each.value.filter
      label_extractors = { secret = "EXTRACT(jsonPayload.secret)" }
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content = each.value.says
  }
}

resource "google_monitoring_alert_policy" "dead" {
  project               = var.project
  display_name          = "${var.name}: dead letters"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "dead letters"

    condition_threshold {
      filter          = "resource.type=\"pubsub_subscription\" AND metric.type=\"pubsub.googleapis.com/subscription/dead_letter_message_count\" AND resource.labels.subscription_id=starts_with(\"${var.name}-\")"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  documentation {
    content = "A message was tried until its last attempt. It is kept for seven days: look at it, mend what it met, publish it again."
  }
}

locals {
  # Not the dead letters: they lie there until somebody takes them.
  pushed = join(",", [for each in google_pubsub_subscription.push : jsonencode(each.name)])
}

resource "google_monitoring_alert_policy" "waiting" {
  project               = var.project
  display_name          = "${var.name}: messages wait"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "messages wait"

    condition_threshold {
      filter          = "resource.type=\"pubsub_subscription\" AND metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.labels.subscription_id=one_of(${local.pushed})"
      comparison      = "COMPARISON_GT"
      threshold_value = 3600
      duration        = "300s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    content = "For more than an hour no function could do what a message asks for: see their log."
  }
}
