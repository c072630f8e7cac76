# One PostgreSQL on Cloud SQL, with a private address: two users that take turns, set by an admin.
#
#   cp keyturn.yaml ../../../functions/   and   terraform apply -var project=.. -var first_rotation=..

variable "project" {
  description = "The project's id."
  type        = string
}

variable "first_rotation" {
  description = "When the first tick comes, such as 2030-01-01T03:00:00Z."
  type        = string
}

variable "vpc_connector" {
  description = "Full name of the connector into the network that Cloud SQL is peered with."
  type        = string
  default     = null
}

provider "google" {
  project = var.project
  region  = "europe-west1"
}

provider "google-beta" {
  project = var.project
  region  = "europe-west1"
}

# The admin's login, stored by hand: {"username": "keyturn_admin", "password": ..}.
resource "google_secret_manager_secret" "admin" {
  project   = var.project
  secret_id = "orders-admin"

  replication {
    auto {}
  }
}

module "keyturn" {
  source = "../"

  project       = var.project
  region        = "europe-west1"
  source_dir    = "${path.module}/../../../functions"
  vpc_connector = var.vpc_connector
  admin_secrets = [google_secret_manager_secret.admin.secret_id]

  secrets = {
    orders-db = {
      first_rotation  = var.first_rotation
      rotation_period = "2592000s"
      destroy_after   = "604800s"
    }
  }

  environment = {
    KEYTURN_CA_FILE = "ca.pem"
  }
}

output "alerts_topic" {
  description = "Subscribe whoever is to be told."
  value       = module.keyturn.alerts_topic
}
