# The secrets, their companions, and the topic that Secret Manager tells of them.

data "google_project" "this" {
  project_id = var.project
}

# Secret Manager's own account is made by this, and must be allowed to publish before a secret names a topic.
resource "google_project_service_identity" "secret_manager" {
  provider = google-beta
  project  = var.project
  service  = "secretmanager.googleapis.com"
}

resource "google_pubsub_topic" "secrets" {
  project                    = var.project
  name                       = "${var.name}-secrets"
  kms_key_name               = var.kms_key
  message_retention_duration = "604800s"
}

resource "google_pubsub_topic_iam_member" "secret_manager" {
  project = var.project
  topic   = google_pubsub_topic.secrets.name
  role    = "roles/pubsub.publisher"
  member  = google_project_service_identity.secret_manager.member
}

resource "google_secret_manager_secret" "rotated" {
  for_each = var.secrets

  project             = var.project
  secret_id           = each.key
  labels              = each.value.labels
  version_destroy_ttl = each.value.destroy_after

  replication {
    auto {
      dynamic "customer_managed_encryption" {
        for_each = var.kms_key[*]

        content {
          kms_key_name = customer_managed_encryption.value
        }
      }
    }
  }

  topics {
    name = google_pubsub_topic.secrets.id
  }

  rotation {
    next_rotation_time = each.value.first_rotation
    rotation_period    = each.value.rotation_period
  }

  lifecycle {
    # Secret Manager moves it with every tick. Aliases are keyturn's, where it keeps them.
    ignore_changes = [rotation[0].next_rotation_time, version_aliases]
  }

  depends_on = [google_pubsub_topic_iam_member.secret_manager]
}

# What is pending is here, and which version is current. Nobody but keyturn's functions reads or writes it.
resource "google_secret_manager_secret" "companion" {
  for_each = var.secrets

  project   = var.project
  secret_id = "${each.key}-pending"

  replication {
    auto {
      dynamic "customer_managed_encryption" {
        for_each = var.kms_key[*]

        content {
          kms_key_name = customer_managed_encryption.value
        }
      }
    }
  }

  lifecycle {
    # The record of every rotation: put back, an old one would name the wrong version.
    ignore_changes = [annotations]
  }
}
