# keyturn's own topics, the pushes that bring messages to the functions, and the clock of the follow-up.

resource "google_pubsub_topic" "follow_up" {
  project                    = var.project
  name                       = "${var.name}-follow-up"
  kms_key_name               = var.kms_key
  message_retention_duration = "604800s"
}

# Subscribe whoever is to be told: attributes are happening, severity, secret and id.
resource "google_pubsub_topic" "alerts" {
  project      = var.project
  name         = "${var.name}-alerts"
  kms_key_name = var.kms_key
}

resource "google_pubsub_topic" "dead" {
  project                    = var.project
  name                       = "${var.name}-dead"
  kms_key_name               = var.kms_key
  message_retention_duration = "2678400s"
}

# Without a subscription, what is published to it is gone.
resource "google_pubsub_subscription" "dead" {
  project                    = var.project
  name                       = "${var.name}-dead"
  topic                      = google_pubsub_topic.dead.id
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }
}

locals {
  # Second looks come back unheard until they are due, which must not make dead letters of them: hence 100.
  pushes = {
    rotate = {
      topic    = google_pubsub_topic.secrets
      function = "rotate"
      filter   = "attributes.eventType = \"SECRET_ROTATE\""
      attempts = 20
    }
    added = {
      topic    = google_pubsub_topic.secrets
      function = "follow_up"
      filter   = "attributes.eventType = \"SECRET_VERSION_ADD\""
      attempts = 20
    }
    follow-up = {
      topic    = google_pubsub_topic.follow_up
      function = "follow_up"
      filter   = "hasPrefix(attributes.eventType, \"KEYTURN_\")"
      attempts = 100
    }
  }
}

resource "google_pubsub_subscription" "push" {
  for_each = local.pushes

  project                    = var.project
  name                       = "${var.name}-${each.key}"
  topic                      = each.value.topic.id
  filter                     = each.value.filter
  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"

  # Else it is gone after 31 days without a message, which a period of 90 days has.
  expiration_policy {
    ttl = ""
  }

  push_config {
    # The function learns the topic from the end of the address.
    push_endpoint = "${google_cloudfunctions2_function.this[each.value.function].service_config[0].uri}/${each.value.topic.id}"

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = google_cloudfunctions2_function.this[each.value.function].service_config[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "30s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead.id
    max_delivery_attempts = each.value.attempts
  }

  depends_on = [
    google_cloud_run_service_iam_member.push,
    google_pubsub_topic_iam_member.dead,
    google_service_account_iam_member.push_token,
  ]
}

resource "google_cloud_scheduler_job" "sweep" {
  project     = var.project
  region      = var.region
  name        = "${var.name}-sweep"
  description = "keyturn's follow-up looks at all of the plan."
  schedule    = "*/5 * * * *"
  time_zone   = "Etc/UTC"

  pubsub_target {
    topic_name = google_pubsub_topic.follow_up.id
    data       = base64encode("{}")
    attributes = { eventType = "KEYTURN_SWEEP" }
  }
}
