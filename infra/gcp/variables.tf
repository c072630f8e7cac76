variable "project" {
  description = "The project's id. Its secrets, topics and functions are all in it."
  type        = string
}

variable "region" {
  description = "Where the functions run, such as europe-west1."
  type        = string
}

variable "name" {
  description = "What everything here begins with."
  type        = string
  default     = "keyturn"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name))
    error_message = "3 to 16 small letters, digits and hyphens, a letter first: names of service accounts are short."
  }
}

variable "source_dir" {
  description = "keyturn's functions/, with your keyturn.yaml in it, and ca.pem if a database has its own authority."
  type        = string
}

variable "secrets" {
  description = <<-EOT
    What is rotated, by the id of the secret. Made here, without a value: store the first one by hand or by `generate`.
    rotation_period: at least 3600s. first_rotation: when Secret Manager sends the first tick, in RFC 3339, in the future.
    destroy_after: how long a version that is destroyed can be brought back, 86400s or more.
  EOT
  type = map(object({
    first_rotation  = string
    rotation_period = optional(string, "2592000s")
    destroy_after   = optional(string)
    labels          = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for id in keys(var.secrets) : can(regex("^[A-Za-z0-9_-]{1,247}$", id))])
    error_message = "A secret's id has 247 letters, digits, hyphens and underscores at most: its companion has eight more."
  }

  validation {
    condition     = alltrue([for id in keys(var.secrets) : !endswith(id, "-pending")])
    error_message = "An id that ends in -pending is a companion's name: companions are made here, and never rotated."
  }

  validation {
    condition = alltrue([
      for each in values(var.secrets) :
      can(regex("^[0-9]+s$", each.rotation_period)) && try(tonumber(trimsuffix(each.rotation_period, "s")) >= 3600, false)
    ])
    error_message = "A rotation_period is a whole number of seconds with an s behind it, 3600s at least."
  }
}

variable "admin_secrets" {
  description = "Ids of secrets of this project whose login sets those of others. They are read, and exist already."
  type        = set(string)
  default     = []
}

variable "kms_key" {
  description = "Full name of a Cloud KMS key in the location `global`, as secrets without a place of their own take no other, for the secrets and the topics; Google's own keys if there is none. The service agents of Secret Manager and Pub/Sub must be allowed to use it."
  type        = string
  default     = null
}

variable "vpc_connector" {
  description = "Full name of a Serverless VPC Access connector, for databases with a private address."
  type        = string
  default     = null
}

variable "build_account" {
  description = "Full name of the service account that builds, projects/P/serviceAccounts/E-MAIL, with roles/cloudbuild.builds.builder; the project's default one if there is none."
  type        = string
  default     = null
}

variable "has_generate" {
  description = "Whether there is a function that makes values on demand. Grant roles/run.invoker on it to whoever may ask."
  type        = bool
  default     = false
}

variable "notification_channels" {
  description = "Full names of Cloud Monitoring's channels that hear of what goes wrong."
  type        = list(string)
  default     = []
}

variable "environment" {
  description = "More of the functions' variables, such as KEYTURN_CA_FILE: see docs/google.md. No secrets."
  type        = map(string)
  default     = {}
}

variable "timeout_s" {
  description = "How long a function may run, in seconds."
  type        = number
  default     = 300

  validation {
    condition     = var.timeout_s >= 1 && var.timeout_s < 600 && floor(var.timeout_s) == var.timeout_s
    error_message = "Less than the 600 s that a push waits, in whole seconds: else a message comes again while it is being heard."
  }
}
