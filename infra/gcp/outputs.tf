output "alerts_topic" {
  description = "Where keyturn's alerts are published."
  value       = google_pubsub_topic.alerts.id
}

output "secrets_topic" {
  description = "Publish SECRET_ROTATE here to rotate now."
  value       = google_pubsub_topic.secrets.id
}

output "follow_up_topic" {
  description = "Publish KEYTURN_LOOK here to have a secret looked at now."
  value       = google_pubsub_topic.follow_up.id
}

output "function_accounts" {
  description = "The functions' service accounts, by entry point: grant them what targets, copies and consumers need."
  value       = { for name, account in google_service_account.function : name => account.email }
}

output "generate_uri" {
  description = "Where a value is asked for; null if there is no such function."
  value       = one([for name, made in google_cloudfunctions2_function.this : made.service_config[0].uri if name == "generate"])
}
