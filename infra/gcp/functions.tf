# The functions. Nothing is called but by a push of ours, or, of `generate`, by whoever IAM lets.

data "archive_file" "source" {
  type        = "zip"
  source_dir  = var.source_dir
  output_path = "${path.root}/.keyturn/source.zip"

  # As functions/.gcloudignore says.
  excludes = [
    "**/.*",
    "**/__pycache__/**",
    "Makefile",
    "aws/**",
    "keyturn/cli/**",
    "keyturn/local/**",
    "keyturn/testing/**",
    "requirements/**",
  ]
}

# Code and a plan, and no secret.
resource "google_storage_bucket" "source" {
  #checkov:skip=CKV_GCP_62:who reads the source is in the audit log
  project                     = var.project
  name                        = "${var.project}-${var.name}-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }
}

resource "google_storage_bucket_object" "source" {
  bucket = google_storage_bucket.source.name
  name   = "${data.archive_file.source.output_sha256}.zip"
  source = data.archive_file.source.output_path
}

locals {
  entry_points = concat(["rotate", "follow_up"], var.has_generate ? ["generate"] : [])

  environment = merge(
    {
      KEYTURN_PROJECT         = data.google_project.this.number
      KEYTURN_SECRETS         = join(",", keys(var.secrets))
      KEYTURN_ADMIN_SECRETS   = join(",", var.admin_secrets)
      KEYTURN_TOPICS          = join(",", [google_pubsub_topic.secrets.id, google_pubsub_topic.follow_up.id])
      KEYTURN_CALLERS         = google_service_account.push.email
      KEYTURN_FOLLOW_UP_TOPIC = google_pubsub_topic.follow_up.id
      KEYTURN_ALERTS          = "pubsub:${google_pubsub_topic.alerts.id}"
      KEYTURN_TIMEOUT_S       = tostring(var.timeout_s)
    },
    var.environment,
  )
}

resource "google_service_account" "function" {
  for_each = toset(local.entry_points)

  project      = var.project
  account_id   = "${var.name}-${replace(each.key, "_", "-")}"
  display_name = "keyturn: ${each.key}"
}

resource "google_cloudfunctions2_function" "this" {
  #checkov:skip=CKV2_GCP_10:pushes come by HTTPS; the address is Cloud Run's own
  for_each = toset(local.entry_points)

  project     = var.project
  location    = var.region
  name        = "${var.name}-${replace(each.key, "_", "-")}"
  description = "keyturn: ${each.key}"

  build_config {
    runtime         = "python313"
    entry_point     = each.key
    service_account = var.build_account

    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    available_memory                 = "512Mi"
    environment_variables            = local.environment
    ingress_settings                 = each.key == "generate" ? "ALLOW_ALL" : "ALLOW_INTERNAL_ONLY"
    max_instance_count               = 3
    max_instance_request_concurrency = 1
    service_account_email            = google_service_account.function[each.key].email
    timeout_seconds                  = var.timeout_s
    vpc_connector                    = var.vpc_connector
    vpc_connector_egress_settings    = var.vpc_connector == null ? null : "PRIVATE_RANGES_ONLY"
  }
}
