# Who may do what: each right is one that the code declares, on one secret. See docs/google.md.

locals {
  # As the lists PERMISSIONS, COMPANION_PERMISSIONS, .. in keyturn.stores.secret_manager have them.
  roles = {
    Rotate = [
      "secretmanager.secrets.get",
      "secretmanager.versions.access",
      "secretmanager.versions.add",
      "secretmanager.versions.get",
      "secretmanager.versions.list",
    ]
    RotateCompanion = [
      "secretmanager.secrets.get",
      "secretmanager.secrets.update",
      "secretmanager.versions.access",
      "secretmanager.versions.add",
      "secretmanager.versions.destroy",
      "secretmanager.versions.list",
    ]
    FollowUp = [
      "secretmanager.secrets.get",
      "secretmanager.versions.access",
      "secretmanager.versions.add",
      "secretmanager.versions.get",
    ]
    FollowUpCompanion = [
      "secretmanager.secrets.get",
      "secretmanager.secrets.update",
      "secretmanager.versions.access",
      "secretmanager.versions.add",
      "secretmanager.versions.list",
    ]
    Admin = [
      "secretmanager.versions.access",
      "secretmanager.versions.get",
    ]
    # The secrets are made here, so it need not make any.
    Generate = [
      "secretmanager.secrets.get",
      "secretmanager.secrets.update",
      "secretmanager.versions.access",
      "secretmanager.versions.add",
      "secretmanager.versions.get",
    ]
  }

  # A function's role on the secrets, and on their companions.
  granted = merge(
    {
      rotate    = { secret = "Rotate", companion = "RotateCompanion" }
      follow_up = { secret = "FollowUp", companion = "FollowUpCompanion" }
    },
    var.has_generate ? { generate = { secret = "Generate", companion = "Generate" } } : {},
  )

  grants = {
    for each in setproduct(keys(local.granted), keys(var.secrets)) :
    "${each[0]} ${each[1]}" => { function = each[0], secret = each[1] }
  }

  # Admins set the passwords, and say which sessions are open.
  admin_grants = {
    for each in setproduct(["rotate", "follow_up"], var.admin_secrets) :
    "${each[0]} ${each[1]}" => { function = each[0], secret = each[1] }
  }
}

resource "google_project_iam_custom_role" "this" {
  for_each = local.roles

  project     = var.project
  role_id     = "${replace(var.name, "-", "_")}${each.key}"
  title       = "keyturn: ${each.key}"
  permissions = each.value
}

resource "google_secret_manager_secret_iam_member" "secret" {
  for_each = local.grants

  project   = var.project
  secret_id = google_secret_manager_secret.rotated[each.value.secret].secret_id
  role      = google_project_iam_custom_role.this[local.granted[each.value.function].secret].name
  member    = google_service_account.function[each.value.function].member
}

resource "google_secret_manager_secret_iam_member" "companion" {
  for_each = local.grants

  project   = var.project
  secret_id = google_secret_manager_secret.companion[each.value.secret].secret_id
  role      = google_project_iam_custom_role.this[local.granted[each.value.function].companion].name
  member    = google_service_account.function[each.value.function].member
}

resource "google_secret_manager_secret_iam_member" "admin" {
  for_each = local.admin_grants

  project   = var.project
  secret_id = each.value.secret
  role      = google_project_iam_custom_role.this["Admin"].name
  member    = google_service_account.function[each.value.function].member
}

# ---------------------------------------------------------------------------- messages

resource "google_service_account" "push" {
  project      = var.project
  account_id   = "${var.name}-push"
  display_name = "keyturn: pushes messages to the functions"
}

resource "google_cloud_run_service_iam_member" "push" {
  for_each = toset(["rotate", "follow_up"])

  project  = var.project
  location = var.region
  service  = google_cloudfunctions2_function.this[each.key].service_config[0].service
  role     = "roles/run.invoker"
  member   = google_service_account.push.member
}

resource "google_pubsub_topic_iam_member" "follow_up" {
  project = var.project
  topic   = google_pubsub_topic.follow_up.name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.function["follow_up"].member
}

resource "google_pubsub_topic_iam_member" "alerts" {
  for_each = toset(["rotate", "follow_up"])

  project = var.project
  topic   = google_pubsub_topic.alerts.name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.function[each.key].member
}

# In a new project it is not there yet, and a grant to an account that is not there fails.
resource "google_project_service_identity" "pubsub" {
  provider = google-beta
  project  = var.project
  service  = "pubsub.googleapis.com"
}

locals {
  pubsub_agent = google_project_service_identity.pubsub.member
}

# Pub/Sub's own account makes the tokens of pushes, and moves dead letters.
resource "google_service_account_iam_member" "push_token" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent
}

resource "google_pubsub_topic_iam_member" "dead" {
  project = var.project
  topic   = google_pubsub_topic.dead.name
  role    = "roles/pubsub.publisher"
  member  = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead" {
  for_each = local.pushes

  project      = var.project
  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}
